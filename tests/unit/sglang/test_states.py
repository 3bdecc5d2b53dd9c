# SPDX-License-Identifier: Apache-2.0
"""State beside the KV cache, KV that goes to host memory, and what is refused at start."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sglang.srt.disaggregation.base.conn import (
    KVPoll,
    KVTransferDestination,
    StateType,
)
from support.sglang_worker import POOL_TOKENS, Worker, settle

from mooncake_connector.errors import ConfigError, UnsupportedError
from mooncake_connector.sglang.bootstrap import BootstrapServer

Start = Callable[..., Worker]
_rooms = itertools.count(1 << 41)
PAGE = 4


class States:
    """State components of a worker, as SGLang's hybrid pools describe theirs."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        shapes = {
            StateType.SWA: [(64, PAGE * 32)] * 4,  # pages of a window: K and V of two layers
            StateType.MAMBA: [(8, 96), (8, 40)],  # slots: convolution and recurrence
            StateType.DSA: [(64, PAGE * 8)],  # pages of the indexer
        }
        self.types = list(shapes)
        self.regions = {
            kind: [rng.integers(0, 256, shape, np.uint8) for shape in kinds]
            for kind, kinds in shapes.items()
        }

    def describe(self, worker: Worker) -> None:
        args = worker.args
        args.state_types = self.types
        args.state_layer_ids = [[], [3, 3], []]
        components = [self.regions[kind] for kind in self.types]
        args.state_data_ptrs = [[one.ctypes.data for one in part] for part in components]
        args.state_data_lens = [[one.nbytes for one in part] for part in components]
        args.state_item_lens = [[one[0].nbytes for one in part] for part in components]

    def rows(self, kind: StateType, indices: Any) -> list[np.ndarray]:
        return [region[np.ravel(indices)].copy() for region in self.regions[kind]]


def transfer(
    prefill: Worker,
    decode: Worker,
    bootstrap: BootstrapServer,
    *,
    source: np.ndarray,
    target: np.ndarray,
    states: tuple[list[Any], list[Any]],
    destination: KVTransferDestination = KVTransferDestination.DEVICE,
) -> list[int]:
    """One request; the state's indices are those of P, then those of D."""
    room = next(_rooms)
    sender, receiver = prefill.sender(bootstrap.port, room), decode.receiver(bootstrap.port, room)
    settle(receiver, until=KVPoll.WaitingForInput)
    with decode.published():
        receiver.send_metadata(target, 1, states[1], decode_prefix_len=0, destination=destination)
    if settle(sender, receiver, until=KVPoll.WaitingForInput)[1] == KVPoll.Failed:
        return [sender.poll(), KVPoll.Failed]
    sender.init(len(source), 2)
    sender.send(source[:3])
    prefill.set_row(2, room, token=1)
    sender.send(source[3:], states[0])
    return settle(sender, receiver)


def test_states_come_with_the_last_chunk(start: Start, bootstrap: BootstrapServer) -> None:
    at_prefill, at_decode = States(1), States(2)
    prefill = start("prefill", at_prefill.describe, page_size=PAGE)
    decode = start("decode", at_decode.describe, page_size=PAGE)
    prefill.fill(1)
    source, target = np.arange(10, 18, dtype=np.int32), np.arange(30, 22, -1, dtype=np.int32)
    # The window's pages are fewer than the request's, Mamba's slot comes wrapped in a list, and
    # the indexer's pages are all of them.
    theirs = [np.array([5, 9, 7]), [np.array([3])], source]
    ours = [np.array([50, 40, 41]), [np.array([6])], target]
    before = {kind: [one.copy() for one in at_decode.regions[kind]] for kind in at_decode.types}
    assert (
        transfer(prefill, decode, bootstrap, source=source, target=target, states=(theirs, ours))
        == [KVPoll.Success] * 2
    )
    assert np.array_equal(prefill.tokens(source), decode.tokens(target))
    for kind, there, here in zip(at_decode.types, theirs, ours, strict=True):
        for expected, found in zip(
            at_prefill.rows(kind, there), at_decode.rows(kind, here), strict=True
        ):
            assert np.array_equal(expected, found), kind
        for old, new in zip(before[kind], at_decode.regions[kind], strict=True):
            untouched = np.setdiff1d(np.arange(len(new)), np.ravel(here))
            assert np.array_equal(old[untouched], new[untouched]), kind


def test_a_component_without_indices_is_left_out(start: Start, bootstrap: BootstrapServer) -> None:
    at_prefill, at_decode = States(1), States(2)
    prefill = start("prefill", at_prefill.describe, page_size=PAGE)
    decode = start("decode", at_decode.describe, page_size=PAGE)
    pages = np.arange(10, 18, dtype=np.int32)
    none: list[Any] = [None, [np.array([3])], np.array([], np.int32)]
    assert (
        transfer(prefill, decode, bootstrap, source=pages, target=pages, states=(none, none))
        == [KVPoll.Success] * 2
    )


def test_state_that_is_shared_between_ranks_needs_equal_ranks(
    start: Start, bootstrap: BootstrapServer
) -> None:
    prefill = start("prefill", States(1).describe, page_size=PAGE)
    decode = start("decode", States(2).describe, page_size=PAGE, tp=2, rank=1)
    pages = np.arange(10, 18, dtype=np.int32)
    states: list[Any] = [np.array([5]), [np.array([3])], pages]
    room = next(_rooms)
    prefill.sender(bootstrap.port, room)
    receiver = decode.receiver(bootstrap.port, room)
    settle(receiver, until=KVPoll.WaitingForInput)
    with decode.published():
        receiver.send_metadata(pages, 1, states, decode_prefix_len=0)
    assert settle(receiver) == [KVPoll.Failed]
    with pytest.raises(Exception, match=r"tp 1.*tp 2") as caught:
        receiver.failure_exception()
    assert "swa" in str(caught.value) or "mamba" in str(caught.value)


def test_kv_goes_to_host_memory_where_decode_wants_it(
    start: Start, bootstrap: BootstrapServer
) -> None:
    """Decode's copy of the cache in host memory, with page numbers of its own."""
    host: list[np.ndarray] = []

    def describe_host(worker: Worker) -> None:
        args = worker.args
        for item in args.kv_item_lens:
            host.append(np.zeros((POOL_TOKENS // PAGE, item), np.uint8))
        args.host_kv_data_ptrs = [one.ctypes.data for one in host]
        args.host_kv_data_lens = [one.nbytes for one in host]
        args.host_kv_item_lens = list(args.kv_item_lens)

    prefill, decode = (
        start("prefill", page_size=PAGE),
        start("decode", describe_host, page_size=PAGE),
    )
    assert decode.manager.supports_host_destination
    assert decode.receiver(bootstrap.port, next(_rooms)).supports_host_destination
    prefill.fill(1)
    source, target = np.arange(9, 1, -1, dtype=np.int32), np.arange(20, 28, dtype=np.int32)
    device = decode.tokens(target)
    for place in (KVTransferDestination.HOST, KVTransferDestination.DEVICE):
        ends = transfer(
            prefill,
            decode,
            bootstrap,
            source=source,
            target=target,
            states=([], []),
            destination=place,
        )
        assert ends == [KVPoll.Success] * 2
        if place == KVTransferDestination.HOST:
            assert np.array_equal(prefill.tokens(source), np.stack([one[target] for one in host]))
            assert np.array_equal(device, decode.tokens(target))
    assert np.array_equal(prefill.tokens(source), decode.tokens(target))


def test_without_host_memory_there_is_no_host_destination(
    start: Start, bootstrap: BootstrapServer
) -> None:
    decode = start("decode")
    assert not decode.manager.supports_host_destination
    assert not decode.receiver(bootstrap.port, next(_rooms)).supports_host_destination


def refused(start: Start, change: Callable[[Worker], None] | None = None, **setting: Any) -> str:
    with pytest.raises(UnsupportedError) as caught:
        start("prefill", change, **setting)
    return str(caught.value)


def test_unknown_state_is_refused_at_start(start: Start) -> None:
    def describe(worker: Worker) -> None:
        States(1).describe(worker)
        worker.args.state_types = [StateType.QSA_PENDING, *worker.args.state_types[1:]]

    assert "qsa_pending state" in refused(start, describe)


@pytest.mark.parametrize(
    ("parallel", "named"),
    [
        ({"attn_dcp_size": 2}, "--dcp-size"),
        ({"enable_kv_cache_sharding": True}, "--enable-kv-cache-sharding"),
    ],
)
def test_untested_parallelism_is_refused_at_start(
    start: Start, parallel: dict[str, Any], named: str
) -> None:
    assert named in refused(start, parallel=parallel)


def test_untested_features_are_refused_at_start(start: Start) -> None:
    assert "--enable-hisparse" in refused(start, options={"enable_hisparse": True})

    def draft(worker: Worker) -> None:
        worker.args.num_draft_entries = 2

    def compressed(worker: Worker) -> None:
        worker.args.mla_compression_ratios = [4, 128]

    assert "--speculative-algorithm" in refused(start, draft)
    assert "DeepSeek-V4" in refused(start, compressed)


def test_an_unknown_layout_is_refused_at_start(start: Start) -> None:
    def other_heads(worker: Worker) -> None:
        worker.args.kv_head_num = 3

    def odd_regions(worker: Worker) -> None:
        for name in ("kv_data_ptrs", "kv_data_lens", "kv_item_lens"):
            getattr(worker.args, name).pop()

    assert "has 3 heads" in refused(start, other_heads)
    assert "5 regions" in refused(start, odd_regions)


@pytest.mark.parametrize(
    ("option", "cure"),
    [("BOOTSTRAP_PORT", "--disaggregation-bootstrap-port"), ("MAX_WAIT", "WAITING_TIMEOUT")],
)
def test_options_of_the_other_adapter_are_refused_at_start(
    start: Start, monkeypatch: pytest.MonkeyPatch, option: str, cure: str
) -> None:
    monkeypatch.setenv(f"MOONCAKE_CONNECTOR_{option}", "77")
    with pytest.raises(ConfigError, match=f"MOONCAKE_CONNECTOR_{option} is for vLLM.*{cure}"):
        start("prefill")


def test_a_wrong_device_is_refused_at_start(start: Start) -> None:
    def device(worker: Worker) -> None:
        worker.args.ib_device = "no_such_device"

    with pytest.raises(ConfigError, match="no_such_device"):
        start("prefill", device)

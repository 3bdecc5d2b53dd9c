# SPDX-License-Identifier: Apache-2.0
"""Pipeline stages: each holds some of the layers, and SGLang polls the first one for all."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable

import numpy as np
import pytest
from sglang.srt.disaggregation.base.conn import KVPoll
from sglang.srt.disaggregation.common.conn import KVTransferError
from sglang.srt.disaggregation.pp_consensus_store import PPConsensusStore
from support.sglang_worker import LAYERS, Worker, settle

from mooncake_connector.sglang.bootstrap import BootstrapServer
from mooncake_connector.sglang.sender import Sender

Start = Callable[..., Worker]
_rooms = itertools.count(1 << 41)
PAGES = np.arange(40, 51, dtype=np.int32)
TARGET = np.arange(90, 79, -1, dtype=np.int32)


def server(start: Start, mode: str, stages: int, tp: int, latent: bool) -> list[Worker]:
    """All ranks, the first stage's first."""
    return [
        start(mode, stages=stages, stage=stage, tp=tp, rank=rank, latent=latent, page_size=4)
        for stage in range(stages)
        for rank in range(tp)
    ]


class Request:
    """One request of all ranks of a prefill and a decode server; shapes are (stages, ranks)."""

    def __init__(
        self,
        start: Start,
        bootstrap: BootstrapServer,
        prefill: tuple[int, int] = (2, 1),
        decode: tuple[int, int] = (1, 1),
        latent: bool = False,
    ) -> None:
        self.prefills = server(start, "prefill", *prefill, latent)
        self.decodes = server(start, "decode", *decode, latent)
        self.room = next(_rooms)
        self.senders = [rank.sender(bootstrap.port, self.room) for rank in self.prefills]
        self.receivers = [rank.receiver(bootstrap.port, self.room) for rank in self.decodes]
        settle(*self.receivers, until=KVPoll.WaitingForInput)

    def ask(self) -> None:
        for decode, receiver in zip(self.decodes, self.receivers, strict=True):
            with decode.published():
                receiver.send_metadata(TARGET, 3, [], decode_prefix_len=0)


def consensus(senders: list[Sender]) -> int:
    """What the ranks of the first stage agree on."""
    while (status := min(sender.poll_pp_consensus() for sender in senders)) not in (
        KVPoll.WaitingForInput,
        KVPoll.Failed,
    ):
        pass
    return status


@pytest.mark.parametrize("latent", [False, True], ids=["mha", "mla"])
@pytest.mark.parametrize(
    ("prefill_shape", "decode_shape"),
    [((2, 1), (1, 1)), ((3, 2), (1, 1)), ((2, 1), (2, 2)), ((2, 1), (1, 2))],
)
def test_layers_of_all_stages_arrive(
    start: Start,
    bootstrap: BootstrapServer,
    prefill_shape: tuple[int, int],
    decode_shape: tuple[int, int],
    latent: bool,
) -> None:
    request = Request(start, bootstrap, prefill_shape, decode_shape, latent)
    for prefill in request.prefills:
        # Latents are the same on all ranks of a stage.
        prefill.fill(prefill.setting.stage * 10 + (0 if latent else prefill.setting.rank))
    request.ask()

    assert consensus(request.senders[: prefill_shape[1]]) == KVPoll.WaitingForInput
    for prefill, sender in zip(request.prefills, request.senders, strict=True):
        sender.init(len(PAGES), 7)
        sender.send(PAGES[:4])
        prefill.set_row(7, request.room, token=99)
        sender.send(PAGES[4:], [])
        # SGLang's inflight queue knows no request that is not further than that.
        assert sender.poll() >= KVPoll.WaitingForInput
    assert set(settle(*request.senders, *request.receivers)) == {KVPoll.Success}

    whole = planes(request.prefills, PAGES)
    assert len(whole) == (1 if latent else 2) * LAYERS
    for decode in request.decodes:
        for plane, kv in planes([decode], TARGET).items():
            heads = slice(None)
            if not latent:
                rank, count = decode.setting.rank, decode.setting.heads // decode.setting.tp
                heads = slice(rank * count, (rank + 1) * count)
            assert np.array_equal(whole[plane][:, heads], kv)
        assert int(decode.rows.bootstrap_room[3, 0]) == request.room


def planes(workers: list[Worker], pages: np.ndarray) -> dict[tuple[int, int], np.ndarray]:
    """KV by kind and layer of the model, shape (token, head, bytes); heads of all ranks."""
    found: dict[tuple[int, int], list[np.ndarray]] = {}
    for worker in workers:
        setting = worker.setting
        heads = 1 if setting.latent else setting.heads // setting.tp
        kv = worker.tokens(pages)
        kinds = len(kv) // len(setting.layers)
        for (kind, layer), region in zip(
            itertools.product(range(kinds), setting.layers), kv, strict=True
        ):
            by_token = region.reshape(len(pages) * setting.page_size, heads, -1)
            found.setdefault((kind, layer), []).append(by_token)
    return {
        plane: parts[0] if workers[0].setting.latent else np.concatenate(parts, axis=1)
        for plane, parts in found.items()
    }


def test_decode_gives_up_before_the_first_page(start: Start, bootstrap: BootstrapServer) -> None:
    """The first stage hears of it, and its failure is SGLang's answer for all."""
    request = Request(start, bootstrap)
    request.receivers[0].abort()
    assert consensus(request.senders[:1]) == KVPoll.Failed
    for sender in request.senders:
        with pytest.raises(KVTransferError):
            sender.failure_exception()


def test_a_stage_that_dies_fails_the_request(start: Start, bootstrap: BootstrapServer) -> None:
    request = Request(start, bootstrap)
    request.ask()
    assert consensus(request.senders[:1]) == KVPoll.WaitingForInput
    for sender in request.senders:
        sender.init(len(PAGES), 7)
    request.senders[0].send(PAGES, [])
    request.prefills[1].close()
    assert settle(*request.receivers) == [KVPoll.Failed]


def test_no_stage_keeps_sglangs_open_socket(start: Start) -> None:
    """The store that SGLang makes for stages listens to whoever connects."""
    before = {thread.ident for thread in threading.enumerate()}
    for prefill in server(start, "prefill", 2, 1, False):
        assert not isinstance(prefill.manager.request_status, PPConsensusStore)
    loops = [
        thread
        for thread in threading.enumerate()
        if thread.ident not in before and "_worker_loop" in thread.name
    ]
    assert not loops

# SPDX-License-Identifier: Apache-2.0
"""Requests between managers of real SGLang pools, called as SGLang's schedulers call them."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from sglang.srt.disaggregation.base.conn import KVPoll
from sglang.srt.disaggregation.common.conn import KVTransferError
from support.sglang_worker import HEAD_DIM, LAYERS, Setting, Worker, settle

from mooncake_connector.sglang.bootstrap import BootstrapServer

Start = Callable[..., Worker]
_rooms = itertools.count(1 << 40)


def shuffled(worker: Worker, count: int, seed: int) -> np.ndarray:
    """Page ids as after a thousand requests; page 0 is SGLang's own."""
    pages = np.arange(1, worker.pool.size // worker.setting.page_size + 1, dtype=np.int32)
    np.random.default_rng(seed).shuffle(pages)
    return pages[:count]


class Request:
    """One request of one prefill and one decode rank."""

    def __init__(
        self,
        prefill: Worker,
        decode: Worker,
        bootstrap: BootstrapServer,
        pages: int,
        prefix: int = 0,
    ) -> None:
        self.prefill, self.decode = prefill, decode
        self.room = next(_rooms)
        self.source = shuffled(prefill, pages, 1)
        self.target = shuffled(decode, pages - prefix, 2)
        self.prefix = prefix
        self.sender = prefill.sender(bootstrap.port, self.room)
        self.receiver = decode.receiver(bootstrap.port, self.room)

    def ask(self) -> None:
        assert settle(self.receiver, until=KVPoll.WaitingForInput) == [KVPoll.WaitingForInput]
        with self.decode.published():
            self.receiver.send_metadata(
                self.target,
                3,
                [],
                decode_prefix_len=self.prefix * self.decode.setting.page_size,
            )

    def send(self, chunk: int | None = None) -> None:
        assert settle(self.sender, until=KVPoll.WaitingForInput) == [KVPoll.WaitingForInput]
        assert self.sender.pop_decode_prefix_len() == 0
        self.sender.init(len(self.source), 7)
        step = chunk or len(self.source)
        for first in range(0, len(self.source), step):
            pages = self.source[first : first + step]
            last = first + step >= len(self.source)
            if last:
                self.prefill.set_row(7, self.room, token=4711)
            assert self.sender.should_send_kv_chunk(len(pages), last)
            self.sender.send(pages, [] if last else None, num_kv_tokens=len(pages))

    def arrived(self) -> bool:
        expected = self.prefill.tokens(self.source[self.prefix :])
        return bool(np.array_equal(expected, self.decode.tokens(self.target)))

    def row(self) -> tuple[int, int]:
        rows = self.decode.rows
        return int(rows.output_ids[3, 0]), int(rows.bootstrap_room[3, 0])


@pytest.mark.parametrize("page_size", [1, 16, 64])
@pytest.mark.parametrize("latent", [False, True], ids=["mha", "mla"])
@pytest.mark.parametrize("chunk", [None, 5], ids=["whole", "chunks"])
def test_pages_and_metadata_arrive(
    start: Start, bootstrap: BootstrapServer, page_size: int, latent: bool, chunk: int | None
) -> None:
    prefill = start("prefill", page_size=page_size, latent=latent)
    decode = start("decode", page_size=page_size, latent=latent)
    prefill.fill(1)
    decode.fill(2)
    request = Request(prefill, decode, bootstrap, pages=13)
    others = np.setdiff1d(
        np.arange(decode.pool.size // page_size + 1, dtype=np.int32), request.target
    )
    untouched = decode.tokens(others)
    request.ask()
    assert request.row() == (0, 0)
    request.send(chunk)
    assert settle(request.sender, request.receiver) == [KVPoll.Success] * 2
    assert request.arrived()
    assert request.row() == (4711, request.room)
    assert np.array_equal(untouched, decode.tokens(others))
    metric = request.sender.get_transfer_metric()
    kv_bytes = request.prefill.tokens(request.source).nbytes
    assert metric.transfer_total_bytes is not None and metric.transfer_total_bytes > kv_bytes
    assert metric.transfer_latency_s is not None and metric.transfer_latency_s > 0
    request.sender.clear()
    request.receiver.clear()
    assert prefill.manager.request_status == decode.manager.request_status == {}


def test_either_side_may_come_first(start: Start, bootstrap: BootstrapServer) -> None:
    """P's pages are all offered before D asks: the scheduler may prefill ahead of decode."""
    prefill, decode = start("prefill"), start("decode")
    prefill.fill(1)
    request = Request(prefill, decode, bootstrap, pages=40)
    assert request.sender.poll() == KVPoll.Bootstrapping
    request.ask()
    request.send(7)
    assert settle(request.sender, request.receiver) == [KVPoll.Success] * 2
    assert request.arrived()


@pytest.mark.parametrize("page_size", [1, 16])
def test_only_what_decode_lacks_is_moved(
    start: Start, bootstrap: BootstrapServer, page_size: int
) -> None:
    prefill, decode = start("prefill", page_size=page_size), start("decode", page_size=page_size)
    prefill.fill(1)
    request = Request(prefill, decode, bootstrap, pages=20, prefix=15)
    request.ask()
    request.send(6)
    assert settle(request.sender, request.receiver) == [KVPoll.Success] * 2
    assert request.arrived()
    moved = request.sender.get_transfer_metric().transfer_total_bytes
    assert moved is not None and moved < prefill.tokens(request.source[13:]).nbytes + 10_000


def test_decode_has_everything_already(start: Start, bootstrap: BootstrapServer) -> None:
    """No page is wanted, but the first token still has to come."""
    prefill, decode = start("prefill"), start("decode")
    request = Request(prefill, decode, bootstrap, pages=20, prefix=20)
    request.ask()
    request.send()
    assert settle(request.sender, request.receiver) == [KVPoll.Success] * 2
    assert request.row() == (4711, request.room)


@pytest.mark.parametrize(("prefill_tp", "decode_tp"), [(1, 2), (2, 1), (4, 2), (2, 4)])
@pytest.mark.parametrize("latent", [False, True], ids=["mha", "mla"])
def test_ranks_differ(
    start: Start, bootstrap: BootstrapServer, prefill_tp: int, decode_tp: int, latent: bool
) -> None:
    heads = 4
    prefills = [
        start("prefill", tp=prefill_tp, rank=rank, latent=latent, page_size=4, heads=heads)
        for rank in range(prefill_tp)
    ]
    decodes = [
        start("decode", tp=decode_tp, rank=rank, latent=latent, page_size=4, heads=heads)
        for rank in range(decode_tp)
    ]
    for prefill in prefills:
        prefill.fill(5 if latent else prefill.setting.rank)  # latents are the same on all ranks
    pages = shuffled(prefills[0], 11, 1)
    targets = [shuffled(decode, 11, 2 + decode.setting.rank) for decode in decodes]
    room = next(_rooms)
    senders = [prefill.sender(bootstrap.port, room) for prefill in prefills]
    receivers = [decode.receiver(bootstrap.port, room) for decode in decodes]
    settle(*receivers, until=KVPoll.WaitingForInput)
    for decode, receiver, target in zip(decodes, receivers, targets, strict=True):
        with decode.published():
            receiver.send_metadata(target, 3, [], decode_prefix_len=0)
    assert settle(*senders, until=KVPoll.WaitingForInput) == [KVPoll.WaitingForInput] * prefill_tp
    for prefill, sender in zip(prefills, senders, strict=True):
        prefill.set_row(7, room, token=99)
        sender.init(len(pages), 7)
        sender.send(pages, [])
    assert set(settle(*senders, *receivers)) == {KVPoll.Success}

    whole = whole_model(prefills, pages, latent)
    for decode, target in zip(decodes, targets, strict=True):
        assert np.array_equal(
            share_of(whole, decode.setting, latent), tokens_of(decode, target, latent)
        )
        assert int(decode.rows.bootstrap_room[3, 0]) == room


def tokens_of(worker: Worker, pages: np.ndarray, latent: bool) -> np.ndarray:
    """KV by token, shape (region, token, head, bytes)."""
    kv = worker.tokens(pages)
    heads = 1 if latent else max(1, worker.setting.heads // worker.setting.tp)
    return kv.reshape(len(kv), len(pages) * worker.setting.page_size, heads, -1)


def whole_model(prefills: list[Worker], pages: np.ndarray, latent: bool) -> np.ndarray:
    parts = [tokens_of(prefill, pages, latent) for prefill in prefills]
    return parts[0] if latent else np.concatenate(parts, axis=2)


def share_of(whole: np.ndarray, setting: Setting, latent: bool) -> np.ndarray:
    if latent:
        return whole
    heads = setting.heads // setting.tp
    return whole[:, :, setting.rank * heads : (setting.rank + 1) * heads]


def test_shapes_are_what_the_tests_assume(start: Start) -> None:
    prefill = start("prefill", page_size=4)
    assert tokens_of(prefill, np.array([1, 2]), False).shape == (2 * LAYERS, 8, 4, 2 * HEAD_DIM)


# How requests end badly.


def failure(end: object) -> str:
    with pytest.raises(KVTransferError) as caught:
        end.failure_exception()  # type: ignore[attr-defined]
    return str(caught.value)


def test_decode_aborts_while_pages_come(start: Start, bootstrap: BootstrapServer) -> None:
    prefill, decode = start("prefill"), start("decode")
    request = Request(prefill, decode, bootstrap, pages=40)
    request.ask()
    settle(request.sender, until=KVPoll.WaitingForInput)
    request.sender.init(40, 7)
    request.sender.send(request.source[:20])
    request.receiver.abort()
    assert settle(request.receiver) == [KVPoll.Failed]
    assert decode.manager.is_abort_release_safe(request.room, len(request.receiver.bootstrap_infos))
    assert "aborted" in failure(request.receiver)
    decode.manager.clear_deferred_abort_state(request.room)
    request.sender.send(request.source[20:], [])
    assert settle(request.sender) == [KVPoll.Failed]
    assert "cancel" in failure(request.sender)


def test_pages_are_unsafe_until_the_engine_says_otherwise(
    start: Start, bootstrap: BootstrapServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that is given up holds its pages until the end of its transfer is known."""
    prefill, decode = start("prefill"), start("decode")
    request = Request(prefill, decode, bootstrap, pages=40)
    request.ask()
    with monkeypatch.context() as silence:
        silence.setattr(decode.manager, "collect", lambda: None)
        request.receiver.abort()
        assert request.receiver.abort_notified
        assert request.receiver.poll() == KVPoll.Transferring
        assert not request.receiver.is_abort_release_safe()
        assert not decode.manager.is_abort_release_safe(request.room, 1)
    assert settle(request.receiver) == [KVPoll.Failed]
    assert request.receiver.is_abort_release_safe()
    assert decode.manager.is_abort_release_safe(request.room, 1)


def test_another_rank_failed(start: Start, bootstrap: BootstrapServer) -> None:
    """SGLang then ends the request here too, and asks when its pages are safe."""
    prefill, decode = start("prefill"), start("decode")
    request = Request(prefill, decode, bootstrap, pages=40)
    request.ask()
    request.receiver.ensure_abort_notified(force_arm=True)
    with pytest.raises(KVTransferError) as caught:
        request.receiver.failure_exception()
    assert caught.value.is_from_another_rank
    while not decode.manager.is_abort_release_safe(request.room, 1):
        pass
    decode.manager.clear_deferred_abort_state(request.room)
    assert decode.manager.is_abort_release_safe(request.room, 0)


def test_decode_gives_up_before_it_has_pages(start: Start, bootstrap: BootstrapServer) -> None:
    prefill, decode = start("prefill"), start("decode")
    request = Request(prefill, decode, bootstrap, pages=4)
    settle(request.receiver, until=KVPoll.WaitingForInput)
    request.receiver.abort()
    assert request.receiver.poll() == KVPoll.Failed
    assert not request.receiver.abort_notified  # no page of ours is anybody's destination
    assert settle(request.sender) == [KVPoll.Failed]
    assert "gave the request up" in failure(request.sender)


def test_prefill_aborts(start: Start, bootstrap: BootstrapServer) -> None:
    prefill, decode = start("prefill"), start("decode")
    request = Request(prefill, decode, bootstrap, pages=40)
    request.ask()
    settle(request.sender, until=KVPoll.WaitingForInput)
    request.sender.init(40, 7)
    request.sender.send(request.source[:20])
    request.sender.abort()
    assert request.sender.poll() == KVPoll.Failed
    assert settle(request.receiver) == [KVPoll.Failed]
    assert "the prefill server aborted the request" in failure(request.receiver)


def test_prefill_dies(start: Start, bootstrap: BootstrapServer) -> None:
    prefill, decode = start("prefill"), start("decode")
    request = Request(prefill, decode, bootstrap, pages=40)
    request.ask()
    settle(request.sender, until=KVPoll.WaitingForInput)
    prefill.close()
    assert settle(request.receiver) == [KVPoll.Failed]
    # Another incarnation registers, and the next request finds it.
    prefill = start("prefill")
    prefill.fill(3)
    request = Request(prefill, decode, bootstrap, pages=40)
    while settle(request.receiver, until=KVPoll.WaitingForInput) == [KVPoll.Failed]:
        request = Request(prefill, decode, bootstrap, pages=40)
    request.ask()
    request.send()
    assert settle(request.sender, request.receiver) == [KVPoll.Success] * 2
    assert request.arrived()


def test_a_room_is_used_again(start: Start, bootstrap: BootstrapServer) -> None:
    """SGLang does that when it computes a retracted request anew."""
    prefill, decode = start("prefill"), start("decode")
    room = next(_rooms)
    for seed in (1, 2):
        prefill.fill(seed)
        request = Request(prefill, decode, bootstrap, pages=9)
        for end in (request.sender, request.receiver):
            end.clear()
        request.room = room
        request.sender = prefill.sender(bootstrap.port, room)
        request.receiver = decode.receiver(bootstrap.port, room)
        request.ask()
        request.send()
        assert settle(request.sender, request.receiver) == [KVPoll.Success] * 2
        assert request.arrived()
        request.sender.clear()
        request.receiver.clear()


def test_room_zero_is_refused(start: Start, bootstrap: BootstrapServer) -> None:
    prefill, decode = start("prefill"), start("decode")
    for end in (prefill.sender(bootstrap.port, 0), decode.receiver(bootstrap.port, 0)):
        assert end.poll() == KVPoll.Failed
        assert "bootstrap_room is 0" in failure(end)


def test_nobody_comes(
    start: Start, bootstrap: BootstrapServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SGLANG_DISAGGREGATION_BOOTSTRAP_TIMEOUT", "1")
    prefill = start("prefill")
    sender = prefill.sender(bootstrap.port, next(_rooms))
    assert settle(sender) == [KVPoll.Failed]
    assert "no decode server asked for the request" in failure(sender)


def test_another_model_is_refused(
    start: Start, bootstrap: BootstrapServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefill = start("prefill")
    monkeypatch.setenv("MOONCAKE_CONNECTOR_MODEL_ID", "another model")
    decode = start("decode")
    request = Request(prefill, decode, bootstrap, pages=4)
    request.ask()
    assert settle(request.receiver) == [KVPoll.Failed]
    assert "another model" in failure(request.receiver)


def test_another_page_size_is_refused(start: Start, bootstrap: BootstrapServer) -> None:
    start("prefill", page_size=16)
    decode = start("decode", page_size=4)
    receiver = decode.receiver(bootstrap.port, next(_rooms))
    while settle(receiver) == [KVPoll.Failed] and "still starting" in (reason := failure(receiver)):
        receiver = decode.receiver(bootstrap.port, next(_rooms))
    assert "--page-size 16, this decode server 4" in reason

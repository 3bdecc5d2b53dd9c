# SPDX-License-Identifier: Apache-2.0
"""What a worker does with its orders, and what it reports when, on an engine that only records."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support.vllm_doubles import RecordingEngine, RecordingTransfer

from mooncake_connector.config import ConnectorConfig
from mooncake_connector.errors import (
    MooncakeConnectorError,
    PeerLost,
    TransferAborted,
    TransferTimeout,
)
from mooncake_connector.vllm import worker as module
from mooncake_connector.vllm.metadata import Load, Opening, Part, Release, StepMetadata
from mooncake_connector.vllm.worker import ConnectorWorker

GRANULE = 32


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> ConnectorWorker:
    monkeypatch.setattr(module, "Engine", RecordingEngine)
    parallel = SimpleNamespace(rank=1, world_size=2, data_parallel_index=3)
    vllm: Any = SimpleNamespace(parallel_config=parallel)
    cache: Any = None
    one = ConnectorWorker(vllm, cache, ConnectorConfig(port=5000))
    one._granule = GRANULE
    one._pools = {0: "pool 0", 1: "pool 1"}  # type: ignore[dict-item]
    return one


def engine_of(worker: ConnectorWorker) -> RecordingEngine:
    return worker.engine  # type: ignore[return-value]


def step_through(worker: ConnectorWorker, **orders: Any) -> Any:
    """One step, in vLLM's order."""
    step = StepMetadata(**orders)
    worker.handle_preemptions(step)
    worker.start(step)
    worker.save(step)
    return worker.results()


def pages(*ids: int) -> Any:
    return np.asarray(ids, dtype=np.int32)


def opened(worker: ConnectorWorker, tokens: int = 100) -> RecordingTransfer:
    step_through(worker, opened={"r": Opening(b"tag", tokens)})
    return engine_of(worker).sends[-1]


def loading(worker: ConnectorWorker) -> RecordingTransfer:
    load = Load(9, b"tag", ["p:1", "p:2"], [Part(1, pages(4, 5), 64)], 64, 99)
    step_through(worker, loads={"r": load})
    return engine_of(worker).recvs[-1]


def test_workers_with_a_fixed_port_take_one_each(worker: ConnectorWorker) -> None:
    assert engine_of(worker).options.port == 5000 + 3 * 2 + 1


def test_the_mark_moves_after_the_pages_are_told_and_by_whole_granules(
    worker: ConnectorWorker,
) -> None:
    send = opened(worker, tokens=100)
    step_through(worker, appended={"r": [Part(0, pages(7, 8), 0)]}, ready={"r": 50})
    assert [call[0] for call in send.calls] == ["append", "mark_ready"]
    assert send.calls[-1] == ("mark_ready", 32, None)
    step_through(worker, ready={"r": 63})
    assert len(send.calls) == 2, "the granule is not complete"
    step_through(worker, ready={"r": 100})
    assert send.calls[-1] == ("mark_ready", 128, None), "the last granule is shipped as it is"


def test_the_mark_moves_only_once_the_forward_pass_is_queued(worker: ConnectorWorker) -> None:
    """Before ``save``, the pages of this step hold whatever an earlier request left there."""
    send = opened(worker, tokens=64)
    step = StepMetadata(appended={"r": [Part(0, pages(7, 8), 0)]}, ready={"r": 64})
    worker.handle_preemptions(step)
    worker.start(step)
    assert [call[0] for call in send.calls] == ["append"]
    worker.save(step)
    assert [call[0] for call in send.calls] == ["append", "mark_ready"]


def test_preempted_sends_are_rewound_before_anything_else(worker: ConnectorWorker) -> None:
    send = opened(worker)
    step_through(worker, appended={"r": [Part(0, pages(7, 8), 0)]}, ready={"r": 64})
    step_through(worker, rewound=["r"], appended={"r": [Part(0, pages(5), 0)]}, ready={"r": 32})
    assert [call[0] for call in send.calls[2:]] == ["rewind", "append", "mark_ready"]


def test_windows_go_with_the_end(worker: ConnectorWorker) -> None:
    send = opened(worker)
    step_through(worker, finished={"r": [Part(1, pages(6, 7), 32)]})
    name, windows = send.calls[-1]
    assert name == "finish"
    assert [(pool, ids.tolist(), first) for pool, ids, first in windows] == [("pool 1", [6, 7], 32)]


def test_a_send_is_reported_once_both_sides_are_done(worker: ConnectorWorker) -> None:
    send = opened(worker)
    assert not step_through(worker, finished={"r": []}).finished_sending
    engine_of(worker).end(send)
    assert step_through(worker).finished_sending == {"r"}
    assert not step_through(worker).finished_sending


@pytest.mark.parametrize("order", [{"finished": {"r": []}}, {"aborted": {"r": "gone"}}])
def test_an_early_end_is_held_back_until_the_scheduler_is_done(
    worker: ConnectorWorker, order: dict[str, Any]
) -> None:
    send = opened(worker)
    engine_of(worker).end(send, TransferAborted("the receiver cancelled"))
    assert not step_through(worker).finished_sending
    step_through(worker, appended={"r": [Part(0, pages(7), 0)]}, ready={"r": 64}, rewound=["r"])
    assert step_through(worker, **order).finished_sending == {"r"}
    assert not send.calls, "nothing is asked of a send that has ended"


def test_an_aborted_send_is_reported_when_nothing_reads_its_pages(worker: ConnectorWorker) -> None:
    send = opened(worker)
    assert not step_through(worker, aborted={"r": "gone"}).finished_sending
    assert send.calls[-1] == ("abort", "gone")
    engine_of(worker).end(send, TransferAborted("gone"))
    assert step_through(worker).finished_sending == {"r"}


def test_an_expired_send_is_counted(worker: ConnectorWorker) -> None:
    send = opened(worker)
    step_through(worker, finished={"r": []})
    engine_of(worker).end(send, TransferTimeout("nobody came"))
    assert step_through(worker).finished_sending == {"r"}
    stats = worker.take_stats()
    assert stats is not None and stats.data["expired_requests"] == 1


def test_a_fetch_asks_for_whole_granules(worker: ConnectorWorker) -> None:
    recv = loading(worker)
    addresses, tag, parts = recv.arguments
    assert (addresses, tag) == (["p:1", "p:2"], b"tag")
    assert [(pool, ids.tolist(), first) for pool, ids, first in parts] == [("pool 1", [4, 5], 64)]
    assert (recv.options["first_token"], recv.options["tokens"]) == (64, 128)
    assert recv.options["request"] == 9
    assert (recv.options["receiver_index"], recv.options["receiver_count"]) == (1, 2)


def test_a_fetch_is_reported_once(worker: ConnectorWorker) -> None:
    engine_of(worker).end(loading(worker))
    results = step_through(worker)
    assert (results.finished_recving, results.failed_recving) == ({"r"}, set())
    assert not step_through(worker).finished_recving
    stats = worker.take_stats()
    assert stats is not None
    assert (stats.data["xfer_time"], stats.data["bytes"]) == ([0.25], [4096])
    assert worker.take_stats() is None


def test_a_failed_fetch_is_both_failed_and_finished(worker: ConnectorWorker) -> None:
    engine_of(worker).end(loading(worker), PeerLost("silent"))
    results = step_through(worker)
    assert (results.finished_recving, results.failed_recving) == ({"r"}, {"r"})


def test_a_fetch_that_cannot_start_fails_only_itself(
    worker: ConnectorWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise MooncakeConnectorError("no")

    monkeypatch.setattr(engine_of(worker), "recv", refuse)
    load = Load(9, b"tag", ["p:1"], [], 0, 99)
    results = step_through(worker, loads={"r": load}, releases=[Release(8, b"tag", ["p:1"])])
    assert (results.finished_recving, results.failed_recving) == ({"r"}, {"r"})


def test_a_cancelled_fetch_is_reported_when_no_byte_can_be_written_any_more(
    worker: ConnectorWorker,
) -> None:
    recv = loading(worker)
    assert not step_through(worker, cancelled=["r"]).finished_recving
    assert recv.calls == [("cancel",)]
    engine_of(worker).end(recv, TransferAborted("cancelled"))
    assert step_through(worker).finished_recving == {"r"}


def test_cancelling_what_has_ended_is_nothing(worker: ConnectorWorker) -> None:
    recv = loading(worker)
    engine_of(worker).end(recv)
    assert step_through(worker).finished_recving == {"r"}
    assert not step_through(worker, cancelled=["r"]).finished_recving
    assert not recv.calls


def test_a_release_is_never_reported(worker: ConnectorWorker) -> None:
    step_through(worker, releases=[Release(8, b"tag", ["p:1"])])
    (recv,) = engine_of(worker).recvs
    assert recv.arguments == (["p:1"], b"tag", [])
    engine_of(worker).end(recv)
    assert not step_through(worker).finished_recving


def test_failures_before_a_worker_knew_are_reported(worker: ConnectorWorker) -> None:
    results = step_through(worker, failed={"r": "nobody there"})
    assert (results.finished_recving, results.failed_recving) == ({"r"}, {"r"})

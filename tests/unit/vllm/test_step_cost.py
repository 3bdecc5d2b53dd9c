# SPDX-License-Identifier: Apache-2.0
"""A step costs what happens in it: not what is cached, nor what went before; and it never waits.

Nothing is timed. What counts is executed bytecode, memory in use, and which functions are called.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support.step_cost import blocking_calls, instructions, memory
from support.vllm_doubles import (
    PAGE,
    FullAttentionSpec,
    RecordingEngine,
    SlidingWindowSpec,
    cache_of,
    new_request,
    step_output,
    vllm_config,
)
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorRole

from mooncake_connector import Engine, PoolSpec, planes_from_array
from mooncake_connector.errors import PeerLost
from mooncake_connector.vllm import MooncakeConnector
from mooncake_connector.vllm import worker as worker_module

# A dict that is resized in one run and not in the other differs by less.
MEMORY_SLACK = 2048


class Server:
    """Both halves of the connector, stepped as vLLM does; prefill and decode in one."""

    def __init__(self) -> None:
        cache = cache_of(FullAttentionSpec(), SlidingWindowSpec())
        self.scheduler = MooncakeConnector(vllm_config(), KVConnectorRole.SCHEDULER, cache)
        self.worker = MooncakeConnector(vllm_config(), KVConnectorRole.WORKER, cache)
        self.worker.worker._pools = {0: "pool 0", 1: "pool 1"}
        self.engine = self.worker.worker.engine
        self.lookup: Future[list[str]] = Future()
        self.lookup.set_result(["p:1"])
        self.scheduler.scheduler._decode._resolver.resolve = lambda *_: self.lookup
        self.reported: set[str] = set()

    def step(self, output: Any) -> None:
        metadata = self.scheduler.build_connector_meta(output)
        self.worker.handle_preemptions(metadata)
        self.worker.bind_connector_metadata(metadata)
        self.worker.start_load_kv(None)
        self.worker.wait_for_save()
        results = self.worker.get_transfer_results(set())
        self.worker.get_kv_connector_stats()
        self.worker.clear_connector_metadata()
        self.scheduler.update_connector_output(results)
        self.reported |= results.finished_sending | results.finished_recving

    def prefill(self, name: str, pages: int = 2) -> Any:
        """A whole request, up to its end; its pages are held until somebody fetches them."""
        request = self.arrive_at_prefill(name, pages)
        self.step(chunk(name, pages))
        request.num_computed_tokens = request.num_prompt_tokens
        self.scheduler.request_finished_all_groups(request, tables(pages))
        return request

    def arrive_at_prefill(self, name: str, pages: int) -> Any:
        params = {"do_remote_decode": True, "transfer_id": "t"}
        # Windows make P leave the last token out: one more fills the pages.
        request = new_request(pages * PAGE + 1, params, name)
        self.scheduler.on_new_request(request)
        return request

    def arrive_at_decode(self, name: str, pages: int) -> Any:
        params = {"do_remote_prefill": True, "transfer_id": "t"}
        request = new_request(pages * PAGE, params, name)
        self.scheduler.on_new_request(request)
        return request

    def allocate(self, request: Any, blocks: Any) -> None:
        external, _ = self.scheduler.get_num_new_matched_tokens(request, 0)
        self.scheduler.update_state_after_alloc(request, blocks, external)

    def end_all(self, error: Any = None) -> None:
        """All transfers end, and the scheduler lets all requests go."""
        for transfer in self.engine.sends + self.engine.recvs:
            self.engine.end(transfer, error)
        self.engine.sends.clear()
        self.engine.recvs.clear()
        self.step(step_output())

    def remembered(self) -> dict[str, int]:
        """The size of everything that the two halves keep between steps."""
        scheduler = self.scheduler.scheduler
        holders = (scheduler._prefill, scheduler._decode, self.worker.worker)
        return {
            f"{type(holder).__name__}.{name}": len(value)
            for holder in holders
            for name, value in vars(holder).items()
            if hasattr(value, "__len__")
        }


def tables(pages: int) -> tuple[list[int], list[int]]:
    return list(range(1, pages + 1)), list(range(1, pages + 1))


def blocks_of(pages: int) -> Any:
    block_ids = tables(pages)
    return SimpleNamespace(get_block_ids=lambda: block_ids)


def chunk(name: str, pages: int) -> Any:
    return step_output(new={name: (0, pages * PAGE, tables(pages))})


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(worker_module, "Engine", RecordingEngine)
    one = Server()
    yield one
    one.scheduler.shutdown()


def cost_of_prefill(server: Server, name: str, pages: int) -> int:
    request, output = server.arrive_at_prefill(name, pages), chunk(name, pages)
    cost = instructions(lambda: server.step(output))
    request.num_computed_tokens = request.num_prompt_tokens
    end = tables(pages)
    cost += instructions(lambda: server.scheduler.request_finished_all_groups(request, end))
    return cost + instructions(lambda: server.step(step_output()))


def cost_of_decode(server: Server, name: str, pages: int) -> int:
    request, blocks = server.arrive_at_decode(name, pages), blocks_of(pages)
    cost = instructions(lambda: server.allocate(request, blocks))
    return cost + instructions(lambda: server.step(step_output()))


@pytest.mark.parametrize("cost_of", [cost_of_prefill, cost_of_decode])
def test_no_loop_runs_over_pages(server: Server, cost_of: Any) -> None:
    cost_of(server, "first", 100)  # what is done once, such as making lists of callbacks
    few = cost_of(server, "few", 100)
    assert few > 100, "the package's own instructions are not counted"
    assert cost_of(server, "many", 100_000) == few


def test_the_engine_facade_does_not_loop_over_pages_either() -> None:
    pages = np.arange(100_000, dtype=np.int32)
    cache = np.zeros((len(pages), 8), np.uint8)
    planes = planes_from_array(cache, "BC")
    with Engine() as engine:
        pool, window = (
            engine.register_pool(
                PoolSpec(name=name, page_size=1, page_count=len(pages), planes=planes)
            )
            for name in ("kv", "window")
        )

        def calls(count: int) -> None:
            send = engine.send(b"tag")
            send.append(pool, pages[:count])
            send.mark_ready(count)
            send.finish(windows=[(window, pages[:count], 0)])
            send.abort("enough")
            recv = engine.recv("127.0.0.1:9", b"tag", [(pool, pages[:count])], tokens=count)
            recv.cancel()

        calls(100)
        assert instructions(lambda: calls(100_000)) == instructions(lambda: calls(100))


@pytest.mark.parametrize("cost", [instructions, memory])
@pytest.mark.parametrize("state", ["held", "gone", "fetching", "fetched", "failed"])
def test_what_went_before_costs_nothing(
    monkeypatch: pytest.MonkeyPatch, state: str, cost: Any
) -> None:
    """A chunk costs the same after 1 and after 1,000 requests, wherever these stand."""
    monkeypatch.setattr(worker_module, "Engine", RecordingEngine)
    costs = []
    for requests in (1, 1000):
        server = Server()
        for number in range(requests):
            put(server, f"before-{number}", state)
        server.prefill("warm-up")
        server.arrive_at_prefill("r", 3)
        output = chunk("r", 3)
        costs.append(cost(lambda server=server, output=output: server.step(output)))
        server.scheduler.shutdown()
    few, many = costs
    assert many == few if cost is instructions else abs(many - few) < MEMORY_SLACK


def put(server: Server, name: str, state: str) -> None:
    """Brings a request of two pages into a state."""
    if state in ("held", "gone"):
        server.prefill(name)
        server.step(step_output())
        if state == "gone":
            server.end_all()
        return
    request = server.arrive_at_decode(name, 2)
    server.allocate(request, blocks_of(2))
    server.step(step_output())
    if state != "fetching":
        server.end_all(PeerLost("silent") if state == "failed" else None)
        server.scheduler.request_finished_all_groups(request, tables(2))
        server.step(step_output())


def test_nothing_of_a_request_is_remembered(server: Server) -> None:
    before = server.remembered()
    for number in range(5):
        for state in ("gone", "fetched", "failed"):
            put(server, f"{state}-{number}", state)
    assert len(server.reported) == 15
    assert server.remembered() == before


def test_no_step_waits(server: Server) -> None:
    """Whatever is under way, with a lookup that never ends. (The transfers refuse to be waited
    for, and so does the lookup: its result is asked for only once it is there.)
    """
    never: Future[list[str]] = Future()
    found, server.lookup = server.lookup, never
    stuck = server.arrive_at_decode("stuck", 3)
    released = server.arrive_at_decode("released", 3)
    server.lookup = found
    fetched = server.arrive_at_decode("fetched", 3)
    aborted = server.arrive_at_prefill("aborted", 3)

    def everything() -> None:
        for request in (stuck, fetched):
            server.allocate(request, blocks_of(3))
        server.scheduler.request_finished_all_groups(released, ([], []))
        server.prefill("prefilled")
        server.step(chunk("aborted", 3))
        server.step(step_output(cached={"aborted": (0, 20, tables(2))}, preempted=("aborted",)))
        server.scheduler.request_finished_all_groups(aborted, tables(2))
        server.scheduler.request_finished_all_groups(stuck, tables(3))
        server.end_all(PeerLost("silent"))
        server.step(step_output())

    assert blocking_calls(everything) == []
    assert {"fetched", "stuck", "prefilled", "aborted"} <= server.reported
    assert server.scheduler.has_pending_push_work(), "the two lookups go on"


@pytest.mark.parametrize(
    "call",
    [
        lambda: time.sleep(0),
        lambda: threading.Event().wait(0.001),
        lambda: Future().result(0.001),  # type: ignore[var-annotated]
    ],
)
def test_waiting_would_be_noticed(call: Any) -> None:
    def wait() -> None:
        with contextlib.suppress(TimeoutError):
            call()

    assert blocking_calls(wait)

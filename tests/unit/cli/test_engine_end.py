# SPDX-License-Identifier: Apache-2.0
"""The benchmark's parts that need the engine, over every path, with little data."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mooncake_connector.cli.bench import behaviour, copies, costs, latency
from mooncake_connector.cli.bench.engine_end import EngineEnd
from mooncake_connector.cli.bench.options import KIB, MIB, Options
from mooncake_connector.cli.bench.pair import Pair
from mooncake_connector.cli.bench.worker import Role
from mooncake_connector.errors import MooncakeConnectorError

OPTIONS = Options(sizes=(256, 64 * KIB), rounds=1, seconds=1e-6, region=4 * MIB, verify="every")
ENGINES = [f"engine {path}" for path in OPTIONS.paths]


def nothing(_: str) -> None:
    pass


@pytest.fixture(scope="module")
def processes() -> Iterator[Pair]:
    with Pair(OPTIONS.region, timeout=60) as pair:
        yield pair


def test_copies_over_every_path(processes: Pair) -> None:
    results = copies.measure(processes, OPTIONS, nothing)
    assert len(results) == len(OPTIONS.sizes) * len(OPTIONS.patterns)
    for result in results:
        for name in ENGINES:
            if name in result.unavailable:  # cma, where the kernel forbids it
                continue
            assert result.methods[name].speed > 0
            assert result.engine_spans[name] >= result.spans // 2
            if name != "engine auto":
                assert name == f"engine {result.engine_paths[name]}"


def test_contents_that_the_engine_did_not_move_are_found(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    transfer = EngineEnd.transfer

    def and_corrupt(self: EngineEnd) -> None:
        transfer(self)
        region, workload = self.destination(), self.worker.workload
        if region is not None and workload is not None:
            region.bytes[int(workload.destination[-1]) * workload.block] ^= 1

    monkeypatch.setattr(EngineEnd, "transfer", and_corrupt)
    options = Options(sizes=(KIB,), paths=("tcp",), rounds=1, seconds=1e-6, region=4 * MIB)
    with pytest.raises(MooncakeConnectorError, match="engine tcp moved wrong contents"):
        copies.measure(pair, options, nothing)


def test_latencies(processes: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "COUNT", 10)
    results = latency.measure(processes, OPTIONS, nothing)
    measured = {item.method for item in results}
    assert {"engine auto", "engine shm", "engine tcp"} <= measured
    for item in results:
        assert item.count == 10
        assert 0 < item.p50 <= item.p99


def test_overload(processes: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(behaviour, "REPETITIONS", 2)
    results = behaviour.overload(processes, OPTIONS, nothing)
    assert len(results) >= len(ENGINES) - 1
    for item in results:
        assert (item.requests, item.spans) == (64, 32)
        assert item.failed == 0
        assert item.first_error is None
        assert len(item.seconds) == 2
        assert len(item.sender_resident) == len(item.receiver_resident) == 3
        assert min(*item.sender_resident, *item.receiver_resident) > OPTIONS.region


def test_idle(processes: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(behaviour, "IDLE_SECONDS", 0.05)
    for item in behaviour.idle(processes, OPTIONS, nothing):
        assert item.method in ENGINES
        assert item.seconds == 0.05
        assert item.sender_cpu >= 0


def test_calls(processes: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costs, "COUNT", 5)
    results = costs.calls(processes, OPTIONS, nothing)
    assert {(item.call, item.side) for item in results} == {
        ("send", Role.SENDER),
        ("append", Role.SENDER),
        ("mark_ready", Role.SENDER),
        ("finish", Role.SENDER),
        ("poll", Role.SENDER),
        ("recv", Role.RECEIVER),
        ("poll", Role.RECEIVER),
        ("matched", Role.SENDER),
        ("rewind", Role.SENDER),
        ("abort", Role.SENDER),
        ("cancel", Role.RECEIVER),
        ("write", Role.RECEIVER),
        ("read", Role.RECEIVER),
    }
    assert {item.pages for item in results} == {1, 64, 1024, 4096}
    assert all(item.count == 5 for item in results)

# SPDX-License-Identifier: Apache-2.0
"""The baselines end to end, without an engine."""

from __future__ import annotations

import pytest

from mooncake_connector.cli.bench import baselines, copies, latency
from mooncake_connector.cli.bench.baselines import BASELINES
from mooncake_connector.cli.bench.options import KIB, MIB, Options
from mooncake_connector.cli.bench.pair import Pair, launch_process
from mooncake_connector.errors import MooncakeConnectorError

OPTIONS = Options(
    sizes=(256, 64 * KIB, 2 * MIB), paths=(), rounds=2, seconds=1e-6, region=4 * MIB, verify="every"
)


def nothing(_: str) -> None:
    pass


def check_figures(results: list[copies.CopyResult]) -> None:
    assert [(item.block, item.pattern) for item in results] == [
        (block, pattern) for block in OPTIONS.sizes for pattern in OPTIONS.patterns
    ]
    for result in results:
        assert list(result.methods) == list(BASELINES)
        assert result.verified == len(BASELINES) * (OPTIONS.rounds + 1)
        assert result.bytes == 2 * MIB
        assert 1 <= result.spans <= result.bytes // result.block
        for figures in result.methods.values():
            assert len(figures.rounds) == OPTIONS.rounds
            assert all(item.bytes >= result.bytes for item in figures.rounds)
            assert figures.speed > 0
            assert figures.cpu_cost >= 0


def test_copies_between_threads(pair: Pair) -> None:
    steps: list[str] = []
    check_figures(copies.measure(pair, OPTIONS, steps.append))
    assert len(steps) == copies.steps(OPTIONS)


def test_copies_between_processes() -> None:
    with Pair(OPTIONS.region, timeout=60, launch=launch_process) as pair:
        check_figures(copies.measure(pair, OPTIONS, nothing))


@pytest.mark.parametrize("name", BASELINES)
def test_wrong_contents_end_the_run(pair: Pair, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    end = BASELINES[name]
    transfer = end.transfer

    def and_corrupt(self: baselines.End) -> None:
        transfer(self)
        region, workload = self.destination(), self.worker.workload
        if region is not None and workload is not None:
            region.bytes[int(workload.destination[5]) * workload.block + 3] ^= 1

    monkeypatch.setattr(end, "transfer", and_corrupt)
    with pytest.raises(MooncakeConnectorError, match=rf"{name} moved wrong contents.* page \d+"):
        copies.measure(pair, OPTIONS, nothing)


def test_a_transfer_that_moves_nothing_is_found(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BASELINES["memcpy"], "transfer", lambda self: None)
    with pytest.raises(MooncakeConnectorError, match="memcpy moved wrong contents"):
        copies.measure(pair, OPTIONS, nothing)


def test_a_way_that_is_not_permitted_is_left_out_with_the_reason(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(self: baselines.End) -> None:
        if self.sending:
            raise PermissionError("ptrace is for root")

    monkeypatch.setattr(BASELINES["process_vm_writev"], "transfer", forbidden)
    for result in copies.measure(pair, OPTIONS, nothing):
        assert "process_vm_writev" not in result.methods
        assert "memcpy" in result.methods
        assert "ptrace is for root" in result.unavailable["process_vm_writev"]


def test_another_failure_ends_the_run(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: baselines.End) -> None:
        raise RuntimeError("out of luck")

    monkeypatch.setattr(BASELINES["memcpy"], "transfer", broken)
    with pytest.raises(MooncakeConnectorError, match=r"memcpy: the .* out of luck"):
        copies.measure(pair, OPTIONS, nothing)


def test_latencies_of_every_page_size_that_fits(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latency, "COUNT", 20)
    results = latency.measure(pair, OPTIONS, nothing)
    expected = [(block, name) for block in (4 * KIB, 64 * KIB, MIB) for name in BASELINES]
    assert [(item.block, item.method) for item in results] == expected
    for item in results:
        assert item.count == 20 * OPTIONS.rounds
        assert 0 < item.p50 <= item.p99

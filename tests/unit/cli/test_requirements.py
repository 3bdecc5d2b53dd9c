# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from mooncake_connector.cli.bench.options import KIB, MIB
from mooncake_connector.cli.bench.requirements import judge, ratio
from mooncake_connector.cli.bench.results import (
    CallResult,
    CopyResult,
    IdleResult,
    LatencyResult,
    MethodFigures,
    OverloadResult,
    PlanningResult,
    Results,
    Round,
    StartupResult,
    percentile,
)


def figures(speed: float, cpu_cost: float) -> MethodFigures:
    """Three rounds whose medians are these; one is far off."""
    rounds = [
        Round(int(s * 1e9), 1.0, s * c / 2, s * c / 2)
        for s, c in ((speed, cpu_cost), (speed * 9, cpu_cost * 9), (speed * 0.9, cpu_cost * 0.9))
    ]
    return MethodFigures(rounds)


def copy_result(block: int, **methods: MethodFigures) -> CopyResult:
    names = {name.replace("__", " "): value for name, value in methods.items()}
    return CopyResult(block, "comb", 10, 3, names, {}, 1, {}, {})


def test_a_round_counts_both_processes() -> None:
    item = Round(2 * 10**9, 4.0, 1.0, 3.0)
    assert item.speed == 0.5
    assert item.cpu_cost == 2.0


def test_a_method_is_held_against_the_better_baseline_in_each_figure() -> None:
    result = copy_result(
        256, engine__tcp=figures(2, 6), tcp__writev=figures(4, 3), tcp__packed=figures(1, 2)
    )
    found = ratio(result, "engine tcp", ("tcp writev", "tcp packed"))
    assert found is not None
    assert found.speed == pytest.approx(0.5)
    assert found.cpu_cost == pytest.approx(3)
    assert ratio(result, "engine shm", ("tcp writev",)) is None
    assert ratio(result, "engine tcp", ("memcpy",)) is None


@pytest.mark.parametrize(
    ("block", "path", "cpu_limit"),
    [(256, "shm", 2.2), (4 * KIB, "shm", 2.2), (64 * KIB, "cma", 1.6), (16 * MIB, "cma", 1.6)],
)
@pytest.mark.parametrize("slack", [0.99, 1.01])
def test_same_host_paths_are_held_against_memcpy(
    block: int, path: str, cpu_limit: float, slack: float
) -> None:
    engine = figures(0.7 / slack, 0.2 * cpu_limit * slack)
    results = Results(
        copies=[copy_result(block, memcpy=figures(1, 0.2), **{f"engine__{path}": engine})]
    )
    judged = judge(results)
    assert [item.limit for item in judged] == [cpu_limit, 0.7]
    assert [item.met for item in judged] == [slack < 1, slack < 1]
    assert all(path in item.figure and "memcpy" in item.figure for item in judged)


def test_the_other_path_of_the_same_host_is_not_judged() -> None:
    for block, path in ((256, "cma"), (64 * KIB, "shm"), (16 * KIB, "shm"), (16 * KIB, "cma")):
        item = copy_result(block, memcpy=figures(1, 1), **{f"engine__{path}": figures(1, 1)})
        assert judge(Results(copies=[item])) == []


def test_behaviour_and_costs() -> None:
    results = Results(
        latency=[
            LatencyResult(4 * KIB, "engine auto", 41e-6, 1.0, 9),
            LatencyResult(4 * KIB, "engine shm", 1e-6, 1.0, 9),
        ],
        overload=[
            OverloadResult(
                "engine shm", 64, 1024, [1, 1, 1], 2, "why", [0, 1, 9, 9], [0, 5, 5, 5 + MIB]
            )
        ],
        idle=[IdleResult("engine shm", 3.0, 0.0049, 0.0)],
        calls=[
            CallResult("append", "sender", 4096, 21e-6, 1.0, 9),
            CallResult("recv", "receiver", 1, 5e-6, 1.0, 9),
        ],
        planning=[
            PlanningResult("many", 1000, 8.1e-6, False),
            PlanningResult("one", 32, 4e-6, True),
        ],
        startup=StartupResult([0.1, 0.3, 0.19], 1),
    )
    judged = {item.figure: item.met for item in judge(results)}
    assert judged == {
        "auto: p50 of one transfer of 4 KiB": False,
        "engine shm: failed requests under overload": False,
        "engine shm: growth under overload": True,
        "engine shm: CPU of an idle pair": True,
        "dearest call, p50 (append with 4096 pages)": False,
        "planning many, per span": False,
        "planning one": True,
        "import, beyond numpy": True,
        "threads that the import starts": False,
    }


def test_growth_is_counted_after_the_first_repetitions() -> None:
    item = OverloadResult("x", 1, 1, [1] * 4, 0, None, [0, 0, 100, 100, 130], [9, 50, 60, 70, 65])
    assert item.growth == 30


def test_what_was_not_measured_is_not_judged() -> None:
    assert judge(Results()) == []


@pytest.mark.parametrize(("share", "expected"), [(0.5, 50), (0.99, 99), (1.0, 100), (0.0, 1)])
def test_percentiles_are_values_that_occurred(share: float, expected: float) -> None:
    assert percentile([float(value) for value in range(100, 0, -1)], share) == expected

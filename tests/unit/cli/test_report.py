# SPDX-License-Identifier: Apache-2.0
"""From the options to the tables and the JSON file."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from mooncake_connector.cli.bench import report, runner
from mooncake_connector.cli.bench.baselines import BASELINES
from mooncake_connector.cli.bench.options import KIB, MIB, Options
from mooncake_connector.cli.bench.pair import Launch
from mooncake_connector.cli.bench.requirements import judge
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
)


def everything() -> Results:
    """A result of each kind."""
    methods = {
        "memcpy": MethodFigures([Round(10**9, 0.5, 0.2, 0.0)]),
        "tcp packed": MethodFigures([Round(10**9, 1.0, 0.5, 0.5)]),
        "engine tcp": MethodFigures([Round(10**9, 2.0, 0.5, 0.5)]),
    }
    copies = CopyResult(
        256, "comb", 1000, 1234, methods, {"engine cma": "no"}, 1, {"engine tcp": 99}, {}
    )
    return Results(
        copies=[copies],
        latency=[LatencyResult(4 * KIB, "engine tcp", 30e-6, 90e-6, 10)],
        overload=[
            OverloadResult("engine tcp", 64, 1024, [0.5] * 3, 1, "gone", [MIB] * 4, [0, 0, 0, MIB])
        ],
        idle=[IdleResult("engine tcp", 3.0, 0.25, 0.5)],
        calls=[CallResult("recv", "receiver", 4096, 11e-6, 22e-6, 10)],
        planning=[PlanningResult("scattered pages", 1000, 7e-6, False)],
        startup=StartupResult([0.125], 0),
    )


@pytest.fixture
def options(tmp_path: Path) -> Options:
    return Options(
        parts=("copies", "latency", "planning", "startup"),
        sizes=(256, 64 * KIB),
        paths=(),
        rounds=1,
        seconds=1e-6,
        region=4 * MIB,
        json=tmp_path / "figures.json",
    )


def test_tables_show_every_part() -> None:
    output = io.StringIO()
    results = everything()
    report.show(Console(file=output, width=report.WIDTH), results, judge(results))
    text = output.getvalue()
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "256 B comb memcpy 1,234 2 1.00 2.00 0.2 1.00 0.20" in lines
    assert "engine tcp 99 0.5 0.25 0.50 1 5.00 1.00" in lines
    assert "engine cma was not measured: no" in lines
    assert "engine tcp 30.0 / 90.0" in lines
    assert "recv receiver 11.0 / 22.0" in lines
    assert "engine tcp 64 1,024 0.500..0.500 (3) 1" in lines
    assert "engine tcp sender 1.0 +0.0 +0.0 +0.0" in lines
    assert "engine tcp receiver 0.0 +0.0 +0.0 +1.0" in lines
    assert "gone" in lines
    assert any("0.2500 / 0.5000" in line for line in lines)
    assert any("7.00 ns for each of 1,000 spans" in line for line in lines)
    assert "tcp, 256 B comb: GB/s over tcp writev/tcp packed 0.50x at least 0.85x MISSED" in lines
    assert any(line.startswith("import, beyond numpy 125 ms") for line in lines)


def test_the_json_file_holds_everything() -> None:
    results = everything()
    data = json.loads(report.as_json(results, judge(results), Options(), {"cpus": 2}))
    assert data["format"] == 1
    assert data["machine"] == {"cpus": 2}
    assert data["options"]["sizes"] == list(Options().sizes)
    for part in dataclasses.fields(Results):
        assert data[part.name], part.name
    methods = data["copies"][0]["methods"]
    assert methods["engine tcp"] == {
        "rounds": [
            {
                "bytes": 10**9,
                "seconds": 2.0,
                "sender_cpu_seconds": 0.5,
                "receiver_cpu_seconds": 0.5,
            }
        ],
        "gigabytes_per_second": 0.5,
        "cpu_seconds_per_gigabyte": 1.0,
    }
    assert {"figure", "measured", "limit", "at_most", "unit", "met"} == set(data["requirements"][0])


def test_a_run_measures_prints_and_writes(
    options: Options, launch: Launch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert runner.run(options, launch) == 0
    assert options.json is not None
    data: dict[str, Any] = json.loads(options.json.read_text())
    assert [(item["block"], item["pattern"]) for item in data["copies"]] == [
        (256, "random"), (256, "comb"), (64 * KIB, "random"), (64 * KIB, "comb"),
    ]  # fmt: skip
    for item in data["copies"]:
        assert set(item["methods"]) == set(BASELINES)
        assert item["verified"] == len(BASELINES)
    assert {item["block"] for item in data["latency"]} == {4 * KIB, 64 * KIB, MIB}
    assert data["overload"] == []
    assert [(item["spans"], item["contiguous"]) for item in data["planning"]] == [
        (32, True), (32 * 64, False),
    ]  # fmt: skip
    assert data["machine"]["cpus"] >= 1
    output = capsys.readouterr().out
    assert "Paged copies" in output
    assert "Required figures: " in output


@pytest.mark.parametrize(("require", "status"), [(False, 0), (True, 1)])
def test_missed_figures_fail_the_run_when_they_are_required(
    options: Options, monkeypatch: pytest.MonkeyPatch, require: bool, status: int
) -> None:
    slow = StartupResult([0.5], 0)
    monkeypatch.setattr(runner.costs, "startup", lambda advance: slow)
    assert runner.run(dataclasses.replace(options, parts=("startup",), require=require)) == status

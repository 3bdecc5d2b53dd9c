# SPDX-License-Identifier: Apache-2.0
"""What a run found: plain numbers, as the JSON file holds them. GB = 1e9 bytes."""

from __future__ import annotations

import dataclasses
import math
import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

GIGABYTE = 1e9


@dataclass(frozen=True)
class Round:
    """One measurement of one way to move pages."""

    bytes: int
    seconds: float
    sender_cpu_seconds: float
    receiver_cpu_seconds: float

    @property
    def speed(self) -> float:
        """GB/s."""
        return self.bytes / self.seconds / GIGABYTE

    @property
    def cpu_cost(self) -> float:
        """CPU-seconds of both processes for each GB."""
        return (self.sender_cpu_seconds + self.receiver_cpu_seconds) / (self.bytes / GIGABYTE)


@dataclass(frozen=True)
class MethodFigures:
    """The rounds of one method and their medians."""

    rounds: Sequence[Round]

    @property
    def speed(self) -> float:
        """GB/s, median of the rounds."""
        return statistics.median(item.speed for item in self.rounds)

    @property
    def cpu_cost(self) -> float:
        """CPU-seconds for each GB, median of the rounds."""
        return statistics.median(item.cpu_cost for item in self.rounds)


@dataclass(frozen=True)
class CopyResult:
    """Every method's figures for one workload."""

    block: int
    pattern: str
    bytes: int
    spans: int
    methods: dict[str, MethodFigures]
    unavailable: dict[str, str]
    verified: int
    """How often the contents were compared."""
    engine_spans: dict[str, int]
    """Spans of one transfer as the engine counts them."""
    engine_paths: dict[str, str | None]
    """The path that the engine reports for each of its methods."""


@dataclass(frozen=True)
class LatencyResult:
    """Seconds from asking for one page to having it."""

    block: int
    method: str
    p50: float
    p99: float
    count: int


@dataclass(frozen=True)
class OverloadResult:
    """Many requests outstanding at once, several times in a row."""

    method: str
    requests: int
    spans: int
    seconds: Sequence[float]
    failed: int
    first_error: str | None
    sender_resident: Sequence[int]
    receiver_resident: Sequence[int]
    """Bytes of each process before the first repetition and after each."""

    @property
    def growth(self) -> int:
        """Bytes by which the worse process grew after the first two repetitions."""
        settled = 2
        sides = (self.sender_resident, self.receiver_resident)
        return max(max(side[settled:]) - side[settled] for side in sides)


@dataclass(frozen=True)
class IdleResult:
    """A connected pair that has nothing to do."""

    method: str
    seconds: float
    sender_cpu: float
    receiver_cpu: float
    """CPU-seconds per second."""


@dataclass(frozen=True)
class CallResult:
    """What one call costs the thread that makes it."""

    call: str
    side: str
    pages: int
    p50: float
    p99: float
    count: int


@dataclass(frozen=True)
class PlanningResult:
    """What planning a request costs."""

    request: str
    spans: int
    seconds: float
    contiguous: bool
    """Whether the pages lie in a row, so that the cost is the request's and not the spans'."""


@dataclass(frozen=True)
class StartupResult:
    """What ``import mooncake_connector`` costs beyond numpy."""

    seconds: Sequence[float]
    threads: int
    """Threads that the import started."""

    @property
    def median(self) -> float:
        """Seconds."""
        return statistics.median(self.seconds)


@dataclass
class Results:
    """Everything that a run found; parts that were not asked for are empty."""

    copies: list[CopyResult] = field(default_factory=list)
    latency: list[LatencyResult] = field(default_factory=list)
    overload: list[OverloadResult] = field(default_factory=list)
    idle: list[IdleResult] = field(default_factory=list)
    calls: list[CallResult] = field(default_factory=list)
    planning: list[PlanningResult] = field(default_factory=list)
    startup: StartupResult | None = None


def percentile(seconds: Sequence[float], share: float) -> float:
    """The smallest value that `share` of all values do not exceed."""
    ordered = sorted(seconds)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def machine() -> dict[str, Any]:
    """What the figures depend on besides the code."""
    return {
        "package": metadata.version("mooncake-connector"),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "kernel": platform.release(),
        "cpu": _cpu_model(),
        "cpus": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg(),
        "huge_pages": _read("/sys/kernel/mm/transparent_hugepage/enabled"),
    }


def as_plain_data(results: Results) -> dict[str, Any]:
    """The results as JSON can hold them, medians beside the rounds that they come from."""
    data = dataclasses.asdict(results)
    for result, plain in zip(results.copies, data["copies"], strict=True):
        for name, figures in result.methods.items():
            plain["methods"][name] |= {
                "gigabytes_per_second": figures.speed,
                "cpu_seconds_per_gigabyte": figures.cpu_cost,
            }
    return data


def _cpu_model() -> str:
    lines = (_read("/proc/cpuinfo") or "").splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None

# SPDX-License-Identifier: Apache-2.0
"""What the figures must be, and whether they are.

Copies are held against what plain code does with the same list of spans in the same run, so that
the requirements mean the same on every machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mooncake_connector.cli.bench.methods import engine_method
from mooncake_connector.cli.bench.options import KIB, LARGE_BLOCK, MIB, size_text
from mooncake_connector.cli.bench.results import CopyResult, Results

SMALL_BLOCK = 4 * KIB
SAME_HOST_BASELINE = ("memcpy",)
TCP_BASELINES = ("tcp writev", "tcp packed")  # the better one of the two counts

SHM_CPU, CMA_CPU, SAME_HOST_SPEED = 2.2, 1.6, 0.7
TCP_CPU, TCP_SPEED = 1.15, 0.85

LATENCY_BLOCK, LATENCY = 4 * KIB, 40e-6
GROWTH = MIB  # what the allocator's own caches may still move
IDLE = 0.005  # 0.00 when rounded
IMPORT = 0.2
CALL = 20e-6
SPAN, REQUEST = 8e-9, 5e-6


@dataclass(frozen=True)
class Verdict:
    """One required figure and what was measured."""

    figure: str
    measured: float
    limit: float
    at_most: bool
    unit: str
    """``x`` for a ratio, else what `measured` and `limit` are in."""

    @property
    def met(self) -> bool:
        """Whether the figure is as good as required."""
        return self.measured <= self.limit if self.at_most else self.measured >= self.limit


@dataclass(frozen=True)
class Ratio:
    """A method against the best of some others: below 1 it uses less CPU, or is slower."""

    cpu_cost: float
    speed: float


def ratio(result: CopyResult, method: str, baselines: tuple[str, ...]) -> Ratio | None:
    """A method's figures over those of the best baseline, each figure's best; None without one."""
    figures = result.methods.get(method)
    others = [result.methods[name] for name in baselines if name in result.methods]
    if figures is None or not others:
        return None
    return Ratio(
        cpu_cost=figures.cpu_cost / min(other.cpu_cost for other in others),
        speed=figures.speed / max(other.speed for other in others),
    )


def judge(results: Results) -> list[Verdict]:
    """Every required figure of which something was measured."""
    return [
        *_copies(results),
        *_latency(results),
        *_behaviour(results),
        *_costs(results),
    ]


def _copies(results: Results) -> Iterator[Verdict]:
    for result in results.copies:
        if result.block <= SMALL_BLOCK:
            yield from _copy(result, "shm", SAME_HOST_BASELINE, SHM_CPU, SAME_HOST_SPEED)
        if result.block >= LARGE_BLOCK:
            yield from _copy(result, "cma", SAME_HOST_BASELINE, CMA_CPU, SAME_HOST_SPEED)
        yield from _copy(result, "tcp", TCP_BASELINES, TCP_CPU, TCP_SPEED)


def _copy(
    result: CopyResult, path: str, baselines: tuple[str, ...], cpu_cost: float, speed: float
) -> Iterator[Verdict]:
    found = ratio(result, engine_method(path), baselines)
    if found is not None:
        what = f"{path}, {size_text(result.block)} {result.pattern}"
        against = "/".join(baselines)
        yield Verdict(f"{what}: CPU-s/GB over {against}", found.cpu_cost, cpu_cost, True, "x")
        yield Verdict(f"{what}: GB/s over {against}", found.speed, speed, False, "x")


def _latency(results: Results) -> Iterator[Verdict]:
    found = {item.method: item for item in results.latency if item.block == LATENCY_BLOCK}
    for path in ("auto", "shm", "cma"):  # the engine's own choice, where it was measured
        item = found.get(engine_method(path))
        if item is not None:
            what = f"{path}: p50 of one transfer of {size_text(LATENCY_BLOCK)}"
            yield Verdict(what, item.p50, LATENCY, True, "s")
            return


def _behaviour(results: Results) -> Iterator[Verdict]:
    for item in results.overload:
        yield Verdict(f"{item.method}: failed requests under overload", item.failed, 0, True, "")
        yield Verdict(f"{item.method}: growth under overload", item.growth, GROWTH, True, "bytes")
    for rest in results.idle:
        share = max(rest.sender_cpu, rest.receiver_cpu)
        yield Verdict(f"{rest.method}: CPU of an idle pair", share, IDLE, True, "")


def _costs(results: Results) -> Iterator[Verdict]:
    if results.calls:
        slowest = max(results.calls, key=lambda item: item.p50)
        what = f"dearest call, p50 ({slowest.call} with {slowest.pages} pages)"
        yield Verdict(what, slowest.p50, CALL, True, "s")
    for item in results.planning:
        if item.contiguous:
            yield Verdict(f"planning {item.request}", item.seconds, REQUEST, True, "s")
        else:
            what = f"planning {item.request}, per span"
            yield Verdict(what, item.seconds / item.spans, SPAN, True, "s")
    if results.startup is not None:
        yield Verdict("import, beyond numpy", results.startup.median, IMPORT, True, "s")
        yield Verdict("threads that the import starts", results.startup.threads, 0, True, "")

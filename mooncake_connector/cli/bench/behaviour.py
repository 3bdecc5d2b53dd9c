# SPDX-License-Identifier: Apache-2.0
"""The engine with far too much to do, and with nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mooncake_connector.cli.bench import worker as child
from mooncake_connector.cli.bench.engine_end import PATIENCE, engine_end
from mooncake_connector.cli.bench.methods import engine_method, opened, verify_contents
from mooncake_connector.cli.bench.options import KIB, Options
from mooncake_connector.cli.bench.pair import Pair
from mooncake_connector.cli.bench.results import IdleResult, OverloadResult
from mooncake_connector.cli.bench.worker import Role, Worker
from mooncake_connector.cli.bench.workload import WorkloadSpec

OVERLOAD_BLOCK = KIB
REQUESTS = 64
SPANS = 1024  # of each request
REPETITIONS = 10
IDLE_SECONDS = 3.0


@dataclass(frozen=True)
class Burst:
    """One side's view of all requests at once."""

    seconds: float
    errors: tuple[str, ...]
    resident: int


def steps(options: Options) -> int:
    """How often each of the two measuring functions calls ``advance``."""
    return len(options.paths)


def overload(pair: Pair, options: Options, advance: Callable[[str], None]) -> list[OverloadResult]:
    """Has 64 requests of 1,024 spans outstanding, ten times in a row, over each path."""
    results = []
    page_count = options.region // OVERLOAD_BLOCK
    spans = min(SPANS, page_count // 2 // REQUESTS)
    spec = WorkloadSpec(OVERLOAD_BLOCK, "random", REQUESTS * spans, page_count)
    for path in options.paths:
        name = engine_method(path)
        advance(f"overload, {name}")
        with opened(pair, [name], spec) as ways:
            if name in ways.unavailable:
                continue
            pair.both(child.poison, name, True)
            before = pair.both(_resident)
            bursts = [pair.both(_burst, name, REQUESTS) for _ in range(REPETITIONS)]
            errors = [error for burst in bursts for side in burst.values() for error in side.errors]
            if not errors:
                verify_contents(pair, name)
        results.append(
            OverloadResult(
                method=name,
                requests=REQUESTS,
                spans=spans,
                seconds=[max(side.seconds for side in burst.values()) for burst in bursts],
                failed=len(errors),
                first_error=errors[0] if errors else None,
                sender_resident=_memory(Role.SENDER, before, bursts),
                receiver_resident=_memory(Role.RECEIVER, before, bursts),
            )
        )
    return results


def idle(pair: Pair, options: Options, advance: Callable[[str], None]) -> list[IdleResult]:
    """Measures what a connected pair uses that has just moved something and now rests."""
    results = []
    spec = WorkloadSpec(OVERLOAD_BLOCK, "random", 1, options.region // OVERLOAD_BLOCK)
    for path in options.paths:
        name = engine_method(path)
        advance(f"idle, {name}")
        with opened(pair, [name], spec) as ways:
            if name not in ways.unavailable:
                shares = pair.both(_rest, IDLE_SECONDS)
                results.append(
                    IdleResult(name, IDLE_SECONDS, shares[Role.SENDER], shares[Role.RECEIVER])
                )
    return results


def _resident(_worker: Worker) -> int:
    return child.resident_bytes()


def _memory(
    role: Role, before: Mapping[Role, int], bursts: Sequence[Mapping[Role, Burst]]
) -> list[int]:
    return [before[role], *(burst[role].resident for burst in bursts)]


def _burst(worker: Worker, name: str, requests: int) -> Burst:
    end = engine_end(worker, name)
    began = time.monotonic()
    shares = zip(end.next_tags(requests), np.array_split(end.pages, requests), strict=True)
    completions = [
        transfer.wait(PATIENCE) for transfer in [end.start(tag, pages) for tag, pages in shares]
    ]
    end.engine.poll()
    errors = tuple(str(item.error) for item in completions if item.error is not None)
    return Burst(time.monotonic() - began, errors, child.resident_bytes())


def _rest(worker: Worker, seconds: float) -> float:
    before = child.cpu_seconds()
    time.sleep(seconds)
    return (child.cpu_seconds() - before) / seconds

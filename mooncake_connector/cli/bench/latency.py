# SPDX-License-Identifier: Apache-2.0
"""How long one page takes, asked for one at a time."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain

from mooncake_connector.cli.bench.baselines import BASELINES
from mooncake_connector.cli.bench.methods import engine_method, opened
from mooncake_connector.cli.bench.options import KIB, MIB, Options, size_text
from mooncake_connector.cli.bench.pair import Pair
from mooncake_connector.cli.bench.results import LatencyResult, percentile
from mooncake_connector.cli.bench.worker import Worker
from mooncake_connector.cli.bench.workload import WorkloadSpec

BLOCKS = (4 * KIB, 64 * KIB, MIB)
COUNT = 200  # pages asked for in a round
MOST_PAGES = 512  # different ones


def blocks(options: Options) -> list[int]:
    """The page sizes that fit twice into the region."""
    return [block for block in BLOCKS if 2 * block <= options.region]


def steps(options: Options) -> int:
    """How often ``measure`` calls ``advance``."""
    return len(blocks(options))


def measure(pair: Pair, options: Options, advance: Callable[[str], None]) -> list[LatencyResult]:
    """Measures every method that can ask for a page, rounds interleaved as in ``copies``."""
    methods = (*BASELINES, *(engine_method(path) for path in options.paths))
    results = []
    for block in blocks(options):
        advance(f"latency of {size_text(block)}")
        page_count = options.region // block
        spec = WorkloadSpec(block, "random", min(MOST_PAGES, page_count // 2), page_count)
        seconds: dict[str, list[float]] = {}
        with opened(pair, methods, spec) as ways:
            for index in range(options.rounds + 1):
                for name in ways.names:
                    pair.both(_announce, name, COUNT)
                    sides = pair.both(_latencies, name, COUNT)
                    if index > 0:  # round 0 warms up
                        seconds.setdefault(name, []).extend(chain(*sides.values()))
        results += [
            LatencyResult(block, name, percentile(times, 0.5), percentile(times, 0.99), len(times))
            for name, times in seconds.items()
            if times
        ]
    return results


def _announce(worker: Worker, name: str, count: int) -> None:
    worker.ends[name].announce(count)


def _latencies(worker: Worker, name: str, count: int) -> list[float]:
    return worker.ends[name].latencies(count)

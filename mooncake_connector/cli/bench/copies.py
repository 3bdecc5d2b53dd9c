# SPDX-License-Identifier: Apache-2.0
"""Paged copies: every page size, pattern and method, in interleaved rounds."""

from __future__ import annotations

import math
from collections.abc import Callable

from mooncake_connector.cli.bench import worker as child
from mooncake_connector.cli.bench.baselines import BASELINES
from mooncake_connector.cli.bench.engine_end import engine_end
from mooncake_connector.cli.bench.methods import (
    ENGINE,
    Opened,
    engine_method,
    opened,
    verify_contents,
)
from mooncake_connector.cli.bench.options import Options, size_text
from mooncake_connector.cli.bench.pair import Pair, WorkerFailed
from mooncake_connector.cli.bench.results import CopyResult, MethodFigures, Round
from mooncake_connector.cli.bench.worker import Role, Worker
from mooncake_connector.cli.bench.workload import WorkloadSpec
from mooncake_connector.errors import MooncakeConnectorError

Advance = Callable[[str], None]
"""Called once for each step with what comes next."""


def steps(options: Options) -> int:
    """How often ``measure`` calls ``advance``."""
    return len(options.sizes) * len(options.patterns) * (options.rounds + 1)


def measure(pair: Pair, options: Options, advance: Advance) -> list[CopyResult]:
    """Measures all workloads.

    Raises:
        MooncakeConnectorError: a transfer failed, or contents differ (the message says where).
    """
    methods = (*BASELINES, *(engine_method(path) for path in options.paths))
    results = []
    for block in options.sizes:
        specs = [_spec(options, block, pattern) for pattern in options.patterns]
        with opened(pair, methods, specs[0]) as ways:
            results += [_measure_workload(pair, options, spec, ways, advance) for spec in specs]
    return results


def _spec(options: Options, block: int, pattern: str) -> WorkloadSpec:
    """Half of the region's pages, in transfers of the usual size.

    Transfers take turns, so that what they read and write has left the processor's caches.
    """
    transfers = max(1, options.region // 2 // options.transfer_bytes(block))
    return WorkloadSpec(
        block=block,
        pattern=pattern,
        pages=transfers * options.transfer_bytes(block) // block,
        page_count=options.region // block,
        transfers=transfers,
    )


def _measure_workload(
    pair: Pair, options: Options, spec: WorkloadSpec, ways: Opened, advance: Advance
) -> CopyResult:
    spans = pair.both(child.load, spec)[Role.SENDER]
    bytes_once = spec.pages * spec.block // spec.transfers
    repeats: dict[str, int] = {}
    rounds: dict[str, list[Round]] = {name: [] for name in ways.names}
    verified = 0
    # Round 0 warms up, calibrates and is always verified; it does not count.
    for index in range(options.rounds + 1):
        advance(f"{size_text(spec.block)} {spec.pattern}, round {index} of {options.rounds}")
        for name in _rotated(ways.names, index):
            verify = index == 0 or options.verify == "every"
            if verify:
                pair.both(child.poison, name, index == 0)
            # To be verified, each page must have been copied.
            least = spec.transfers if verify else 1
            count = max(least, repeats.get(name, 1))
            measured = _measure_round(pair, name, count, bytes_once)
            if verify:
                verify_contents(pair, name)
                verified += 1
            if index > 0:
                rounds[name].append(measured)
            else:
                repeats[name] = math.ceil(options.seconds / measured.seconds * count)
    engines = [name for name in ways.names if name.startswith(ENGINE)]
    moved = {name: pair.call(Role.RECEIVER, _moved, name) for name in engines}
    return CopyResult(
        block=spec.block,
        pattern=spec.pattern,
        bytes=bytes_once,
        spans=spans,
        methods={name: MethodFigures(figures) for name, figures in rounds.items()},
        unavailable=ways.unavailable,
        verified=verified,
        engine_spans={name: spans for name, (spans, _) in moved.items()},
        engine_paths={name: path for name, (_, path) in moved.items()},
    )


def _rotated(names: tuple[str, ...], by: int) -> tuple[str, ...]:
    """Another method is first in each round, so that none always follows the same one."""
    start = by % len(names)
    return names[start:] + names[:start]


def _measure_round(pair: Pair, name: str, count: int, bytes_once: int) -> Round:
    try:
        sides = pair.both(child.transfer, name, count)
    except WorkerFailed as failure:
        raise MooncakeConnectorError(f"{name}: {failure}") from failure
    sender, receiver = sides[Role.SENDER], sides[Role.RECEIVER]
    # From when both sides were there until both were done.
    seconds = max(sender.ended, receiver.ended) - max(sender.began, receiver.began)
    return Round(count * bytes_once, seconds, sender.cpu_seconds, receiver.cpu_seconds)


def _moved(worker: Worker, name: str) -> tuple[int, str | None]:
    end = engine_end(worker, name)
    return end.spans_moved, end.path_taken

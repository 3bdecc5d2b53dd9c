# SPDX-License-Identifier: Apache-2.0
"""What it costs to turn a request's page lists into spans."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mooncake_connector import _layout
from mooncake_connector.cli.bench.results import PlanningResult
from mooncake_connector.cli.bench.workload import SEED, PageIds
from mooncake_connector.pools import Plane, PoolSpec

LAYERS = 32
HEADS = 8
PAGE_SIZE = 16  # tokens
HEAD_BYTES = 256  # K or V of 128 elements of 2 bytes
LONG = 32768  # tokens of the request with its pages in a row
SHORT = 1024  # of the scattered one: its spans still fit the processor's cache
PAGE_COUNT = 2 * LONG // PAGE_SIZE
REPETITIONS = 300


@dataclass(frozen=True)
class Request:
    """A request whose pages lie in a row on both sides, or are scattered on both."""

    tokens: int
    source: PageIds
    destination: PageIds
    contiguous: bool


def measure(advance: Callable[[str], None]) -> list[PlanningResult]:
    """Plans requests over 32 layers, one with its pages in a row and one with scattered pages."""
    advance("planning")
    rng = np.random.default_rng(SEED)
    row = np.arange(LONG // PAGE_SIZE, dtype=np.int32)
    source, destination = (
        2 * rng.permutation(SHORT // PAGE_SIZE).astype(np.int32) for _ in range(2)
    )
    return [
        _measure(Request(LONG, row, row + 7, contiguous=True)),
        _measure(Request(SHORT, source, destination, contiguous=False)),
    ]


def _measure(request: Request) -> PlanningResult:
    """Times a request and one of a single page, in turns; the difference is the plan's.

    Each call also reads and matches the two pools, which the engine does once for each peer; with
    one page there is hardly anything else.
    """
    pools = _pool(1 << 40), _pool(1 << 44)
    seconds: dict[int, list[float]] = {request.tokens: [], PAGE_SIZE: []}
    for _ in range(REPETITIONS):
        for tokens, times in seconds.items():
            began = time.perf_counter()
            _plan(pools, request, tokens)
            times.append(time.perf_counter() - began)
    whole, least = (statistics.median(times) for times in seconds.values())
    pages = "pages in a row" if request.contiguous else "scattered pages"
    return PlanningResult(
        request=f"{request.tokens:,} tokens, {LAYERS} layers, {pages}",
        spans=_plan(pools, request, request.tokens),
        seconds=whole - least,
        contiguous=request.contiguous,
    )


def _plan(pools: tuple[PoolSpec, PoolSpec], request: Request, tokens: int) -> int:
    """Plans some tokens as a transfer does: span by span, keeping none."""
    pages = tokens // PAGE_SIZE
    source, destination = request.source[:pages], request.destination[:pages]
    (spans,) = _layout.count_spans([(pools[0], source)], pools[1], destination, tokens=(0, tokens))
    return spans


def _pool(address: int) -> PoolSpec:
    """A cache as vLLM lays it out: for each layer [pages, heads, tokens of a page, K and V]."""
    head_stride = PAGE_SIZE * 2 * HEAD_BYTES
    page_stride = HEADS * head_stride
    planes = [
        Plane(
            address=address + layer * (PAGE_COUNT + 1) * page_stride,  # layers do not touch
            page_stride=page_stride,
            token_stride=2 * HEAD_BYTES,
            head_stride=head_stride,
            element_stride=2,
            heads=HEADS,
            elements=HEAD_BYTES,
            dtype="bfloat16",
            layer=layer,
            kind="kv",
        )
        for layer in range(LAYERS)
    ]
    return PoolSpec(name="kv", page_size=PAGE_SIZE, page_count=PAGE_COUNT, planes=planes)

# SPDX-License-Identifier: Apache-2.0
"""Which pages are copied where."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

PageIds = NDArray[np.int32]
Addresses = NDArray[np.uint64]

LONGEST_RUN = 4
SEED = 20_240_229  # any fixed one: both sides and every run choose the same pages


@dataclass(frozen=True)
class WorkloadSpec:
    """A workload in a few numbers, from which both sides make the same lists."""

    block: int
    """Bytes of a page."""
    pattern: str
    """``random`` pages, or a ``comb``: runs of 1 to 4 pages with gaps between them."""
    pages: int
    """Pages that are copied in all."""
    page_count: int
    """Pages of each side's cache, at least twice as many."""
    transfers: int = 1
    """Into how many transfers they are divided."""


@dataclass(frozen=True)
class Workload:
    """Page ``source[i]`` of the sender goes to page ``destination[i]`` of the receiver."""

    block: int
    source: PageIds
    destination: PageIds

    @classmethod
    def make(cls, spec: WorkloadSpec) -> Workload:
        """The same workload for the same spec, in every process."""
        rng = np.random.default_rng(SEED)
        choose = _comb if spec.pattern == "comb" else _random
        source, destination = choose(rng, spec.pages, spec.page_count)
        return cls(spec.block, source, destination)

    def divide(self, transfers: int) -> list[Workload]:
        """The share of each transfer, in order; their sizes differ by a page at most."""
        shares = zip(
            np.array_split(self.source, transfers),
            np.array_split(self.destination, transfers),
            strict=True,
        )
        return [Workload(self.block, source, destination) for source, destination in shares]

    @cached_property
    def runs(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """First index and length in pages of each stretch that is contiguous on both sides."""
        breaks = (np.diff(self.source) != 1) | (np.diff(self.destination) != 1)
        first = np.concatenate(([0], np.flatnonzero(breaks) + 1))
        return first, np.diff(np.append(first, len(self.source)))

    def spans(self, source_base: int, destination_base: int) -> Addresses:
        """Rows (source address, destination address, length), merged as far as possible."""
        first, pages = self.runs
        return np.column_stack(
            (
                _addresses(self.source[first], self.block, source_base),
                _addresses(self.destination[first], self.block, destination_base),
                pages.astype(np.uint64) * np.uint64(self.block),
            )
        )

    def segments(self, pages: PageIds, base: int) -> Addresses:
        """Rows (address, length) of one side, cut where ``spans`` is."""
        first, lengths = self.runs
        return np.column_stack(
            (
                _addresses(pages[first], self.block, base),
                lengths.astype(np.uint64) * np.uint64(self.block),
            )
        )


def _addresses(pages: PageIds, block: int, base: int) -> Addresses:
    return np.uint64(base) + pages.astype(np.uint64) * np.uint64(block)


def _random(rng: np.random.Generator, pages: int, page_count: int) -> tuple[PageIds, PageIds]:
    source, destination = (rng.choice(page_count, pages, replace=False) for _ in range(2))
    return source.astype(np.int32), destination.astype(np.int32)


def _comb(rng: np.random.Generator, pages: int, page_count: int) -> tuple[PageIds, PageIds]:
    lengths = rng.integers(1, LONGEST_RUN + 1, pages)
    count = int(np.searchsorted(np.cumsum(lengths), pages)) + 1
    lengths = lengths[:count]
    lengths[-1] -= lengths.sum() - pages
    within = np.arange(pages) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    source, destination = (
        (np.repeat(_starts(rng, lengths, page_count), lengths) + within).astype(np.int32)
        for _ in range(2)
    )
    return source, destination


def _starts(
    rng: np.random.Generator, lengths: NDArray[np.int64], page_count: int
) -> NDArray[np.int64]:
    """First pages of runs of these lengths, put in random order with at least a page between."""
    order = rng.permutation(len(lengths))
    spare = page_count - int(lengths.sum()) - (len(lengths) - 1)
    slack = np.sort(rng.integers(0, spare + 1, len(lengths)))
    before = np.cumsum(lengths[order]) - lengths[order] + np.arange(len(lengths))
    starts = np.empty_like(lengths)
    starts[order] = before + slack
    return starts

# SPDX-License-Identifier: Apache-2.0
"""A side's cache: memory whose contents say which page they belong to."""

from __future__ import annotations

import mmap

import numpy as np
from numpy.typing import NDArray

from mooncake_connector.cli.bench.options import MIB, WORD
from mooncake_connector.cli.bench.workload import PageIds, Workload
from mooncake_connector.errors import MooncakeConnectorError

Words = NDArray[np.uint64]

MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd: no two words of a region are equal
POISON = np.uint64(0xA5A5A5A5A5A5A5A5)
CHUNK = 16 * MIB  # what is filled or compared at a time


class ContentError(MooncakeConnectorError):
    """A page does not hold what was copied to it, or a page changed that was not copied to."""


class Region:
    """Private anonymous memory, all of it resident."""

    def __init__(self, size: int) -> None:
        # Released by the collector: views of it, an engine's too, may live longer than this object.
        self._memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.bytes: NDArray[np.uint8] = np.frombuffer(self._memory, dtype=np.uint8)
        self._words: Words = self.bytes.view(np.uint64)
        self.address = int(self.bytes.ctypes.data)
        self.poison()

    def fill(self) -> None:
        """Writes the pattern of a sender."""
        step = CHUNK // WORD
        for start in range(0, len(self._words), step):
            end = min(start + step, len(self._words))
            self._words[start:end] = _pattern(np.arange(start, end, dtype=np.uint64))

    def poison(self, pages: PageIds | None = None, block: int = 0) -> None:
        """Overwrites some pages of ``block`` bytes, or everything, with what no sender holds."""
        if pages is None:
            self._words[:] = POISON
        else:
            self._pages(block)[pages] = POISON

    def check(self, workload: Workload) -> None:
        """Compares the pages that a workload copies here, and that it left all others alone.

        Raises:
            ContentError: names the first page that is wrong.
        """
        pages = self._pages(workload.block)
        words = workload.block // WORD
        step = max(1, CHUNK // workload.block)
        within = np.arange(words, dtype=np.uint64)
        for start in range(0, len(workload.source), step):
            source = workload.source[start : start + step]
            destination = workload.destination[start : start + step]
            expected = _pattern(source.astype(np.uint64)[:, None] * np.uint64(words) + within)
            wrong = np.argwhere(pages[destination] != expected)
            if len(wrong):
                row, word = wrong[0]
                raise ContentError(
                    f"page {destination[row]} differs from the sender's page {source[row]} from "
                    f"byte {word * WORD} of {workload.block} on (index {start + row} of "
                    f"{len(workload.source)} pages)"
                )
        others = np.ones(len(pages), dtype=bool)
        others[workload.destination] = False
        for start in range(0, len(pages), step):
            chunk = slice(start, start + step)
            wrong = np.argwhere(pages[chunk][others[chunk]] != POISON)
            if len(wrong):
                page = start + np.flatnonzero(others[chunk])[wrong[0][0]]
                raise ContentError(f"page {page} changed, but nothing was copied to it")

    def _pages(self, block: int) -> Words:
        words = block // WORD
        count = len(self._words) // words
        return self._words[: count * words].reshape(count, words)


def _pattern(index: Words) -> Words:
    return (index + np.uint64(1)) * MULTIPLIER

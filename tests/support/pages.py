# SPDX-License-Identifier: Apache-2.0
"""Pools of real memory whose every element has a value of its own.

What an element holds follows from (tag, layer, kind, token, head, element) alone, so a receiver
knows what must have arrived without asking the sender, and a byte in the wrong place shows.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mooncake_connector import Plane, PoolSpec, planes_from_array

BACKGROUND = 0xA5  # what every byte holds that nobody has written

# K and V side by side in one axis or in two planes are the same bytes.
_HALVES = {"kv": ("k", "v")}
_NUMPY_HAS_NO = {"bfloat16": "uint16"}


def pattern(
    tag: bytes,
    plane: tuple[int, str],
    tokens: npt.NDArray[np.int64],
    heads: range,
    elements: int,
) -> npt.NDArray[np.uint64]:
    """What the elements of one plane (layer, kind) hold: shape (tokens, heads, elements)."""
    layer, kind = plane
    digest = hashlib.blake2b(b"%d %s " % (layer, kind.encode()) + tag, digest_size=8).digest()
    seed = np.uint64(int.from_bytes(digest, "little"))
    # Neighbours differ in all their bits: each coordinate is spread by a large odd factor.
    values = seed + tokens.astype(np.uint64)[:, None, None] * np.uint64(0x9E3779B97F4A7C15)
    values = values + np.arange(heads.start, heads.stop, dtype=np.uint64)[:, None] * np.uint64(
        0xC2B2AE3D27D4EB4F
    )
    values = values + np.arange(elements, dtype=np.uint64) * np.uint64(0x165667B19E3779F9)
    values ^= values >> np.uint64(29)
    values *= np.uint64(0xBF58476D1CE4E5B9)
    return values >> np.uint64(8)


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How a pool lies in memory.

    Attributes:
        axes: the order of its axes, as `planes_from_array` takes it.
        layers: numbers in the whole model.
        heads: numbers in the whole model.
        elements: of one token and head; of K alone where kind is ``kv``.
        null_page: the page id that means "no page here".
    """

    axes: str = "LSBNHC"
    layers: range = range(2)
    heads: range = range(4)
    elements: int = 16
    page_size: int = 16
    page_count: int = 32
    dtype: str = "float16"
    kind: str = "kv"
    null_page: int | None = None
    fingerprint: str = "a model"

    @property
    def storage(self) -> np.dtype[np.generic]:
        """The numpy type of the elements."""
        return np.dtype(_NUMPY_HAS_NO.get(self.dtype, self.dtype))

    @property
    def token_bytes(self) -> int:
        """Bytes of one token."""
        halves = len(_HALVES.get(self.kind, (self.kind,)))
        return len(self.layers) * halves * len(self.heads) * self.elements * self.storage.itemsize


_Index = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]

Span = tuple[bytes, Sequence[int], int, range]
"""Tag, pages, number of the first page's first token, and which tokens count."""


class Pages:
    """One pool: its memory, its description, and what it holds."""

    def __init__(self, name: str, shape: Shape) -> None:
        self.name = name
        self.shape = shape
        self.memory = np.empty(self._extents(), f"u{shape.storage.itemsize}")
        self.clear()

    def _extents(self) -> list[int]:
        shape = self.shape
        widened = "S" not in shape.axes and shape.kind == "kv"
        extents = {
            "L": len(shape.layers),
            "S": 2,
            "B": shape.page_count,
            "H": len(shape.heads),
            "N": shape.page_size,
            "C": shape.elements * (2 if widened else 1),
        }
        return [extents[axis] for axis in shape.axes]

    def clear(self) -> None:
        """Makes every byte `BACKGROUND`."""
        self.memory.view(np.uint8).fill(BACKGROUND)

    def spec(self, **changes: object) -> PoolSpec:
        """The description to register; `changes` make it lie."""
        shape = self.shape
        planes: list[Plane] = planes_from_array(
            self.memory.view(shape.storage),
            shape.axes,
            layer=shape.layers.start,
            kind=shape.kind,
            first_head=shape.heads.start,
        )
        spec = PoolSpec(
            name=self.name,
            page_size=shape.page_size,
            page_count=shape.page_count,
            planes=[dataclasses.replace(plane, dtype=shape.dtype) for plane in planes],
            null_page=shape.null_page,
            fingerprint=shape.fingerprint,
        )
        return dataclasses.replace(spec, **changes)

    def _planes(
        self, memory: npt.NDArray[np.unsignedinteger]
    ) -> list[npt.NDArray[np.unsignedinteger]]:
        """View (pages, tokens, heads, elements) of each plane, by layer and then kind."""
        axes, missing = self.shape.axes, [a for a in "LSBNHC" if a not in self.shape.axes]
        full = memory[(..., *[None] * len(missing))]
        full = full.transpose([(axes + "".join(missing)).index(axis) for axis in "LSBNHC"])
        planes = []
        for index in range(len(self.shape.layers)):
            for half in range(len(_HALVES.get(self.shape.kind, (self.shape.kind,)))):
                if "S" in axes:
                    planes.append(full[index, half])
                else:
                    first = half * self.shape.elements
                    planes.append(full[index, 0, ..., first : first + self.shape.elements])
        return planes

    def _elements(self, span: Span) -> Iterator[tuple[int, _Index, npt.NDArray[np.uint64]]]:
        """Of each plane: its place in `_planes`, where a span's tokens lie, what they hold."""
        tag, pages, first_token, wanted = span
        size = self.shape.page_size
        ids = np.asarray(pages, np.int64)
        tokens = first_token + np.arange(len(ids) * size)
        chosen = (tokens >= wanted.start) & (tokens < wanted.stop)
        chosen &= np.repeat(ids != self.shape.null_page, size)
        at = np.repeat(ids, size)[chosen], np.tile(np.arange(size), len(ids))[chosen]
        kinds = _HALVES.get(self.shape.kind, (self.shape.kind,))
        for number, plane in enumerate(itertools.product(self.shape.layers, kinds)):
            heads, elements = self.shape.heads, self.shape.elements
            yield number, at, pattern(tag, plane, tokens[chosen], heads, elements)

    def _put(self, memory: npt.NDArray[np.unsignedinteger], span: Span) -> None:
        views = self._planes(memory)
        for number, at, values in self._elements(span):
            views[number][at] = values.astype(memory.dtype)

    def wrong(self, span: Span) -> int:
        """How many elements of a span are not what its transfer should have brought."""
        views = self._planes(self.memory)
        return sum(
            int(np.count_nonzero(views[number][at] != values.astype(self.memory.dtype)))
            for number, at, values in self._elements(span)
        )

    def wipe(self, pages: Sequence[int]) -> None:
        """Makes every byte of some pages `BACKGROUND`."""
        for view in self._planes(self.memory):
            view[np.asarray(pages, np.int64)] = self._background

    def touched(self, pages: Sequence[int]) -> list[int]:
        """Which of these pages, wiped before, somebody has written to."""
        ids = np.asarray(pages, np.int64)
        clean = np.ones(len(ids), bool)
        for view in self._planes(self.memory):
            clean &= (view[ids] == self._background).all(axis=(1, 2, 3))
        return [int(page) for page in ids[~clean]]

    @property
    def _background(self) -> np.unsignedinteger:
        dtype = self.memory.dtype
        return np.full(dtype.itemsize, BACKGROUND, np.uint8).view(dtype)[0]

    def fill(
        self, tag: bytes, pages: Sequence[int], first_token: int = 0, until: int | None = None
    ) -> None:
        """Writes the pattern of a transfer into pages, as a prefill would."""
        stop = first_token + len(pages) * self.shape.page_size if until is None else until
        self._put(self.memory, (tag, pages, first_token, range(first_token, stop)))

    def difference(self, *spans: Span) -> str | None:
        """Where the pool holds anything but these spans on `BACKGROUND`; None: nowhere."""
        expected = np.empty_like(self.memory)
        expected.view(np.uint8).fill(BACKGROUND)
        for span in spans:
            self._put(expected, span)
        wrong = np.argwhere(expected != self.memory)
        if len(wrong) == 0:
            return None
        first = tuple(wrong[0])
        place = ", ".join(f"{axis}={at}" for axis, at in zip(self.shape.axes, first, strict=True))
        return (
            f"pool {self.name!r}: {len(wrong)} of {expected.size} elements differ, the first at "
            f"{place}: {self.memory[first]:#x} instead of {expected[first]:#x}"
        )

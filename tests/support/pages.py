# SPDX-License-Identifier: Apache-2.0
"""Pools of real memory whose every element has a value of its own.

What an element holds follows from (tag, layer, kind, token, head, element) alone, so a receiver
knows what must have arrived without asking the sender, and a byte in the wrong place shows.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
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
    ) -> list[tuple[int, str, npt.NDArray[np.unsignedinteger]]]:
        """Layer, kind and view (pages, tokens, heads, elements) of each plane."""
        axes, missing = self.shape.axes, [a for a in "LSBNHC" if a not in self.shape.axes]
        full = memory[(..., *[None] * len(missing))]
        full = full.transpose([(axes + "".join(missing)).index(axis) for axis in "LSBNHC"])
        kinds = _HALVES.get(self.shape.kind, (self.shape.kind,))
        planes = []
        for index, layer in enumerate(self.shape.layers):
            for half, kind in enumerate(kinds):
                if "S" in axes:
                    view = full[index, half]
                else:
                    first = half * self.shape.elements
                    view = full[index, 0, ..., first : first + self.shape.elements]
                planes.append((layer, kind, view))
        return planes

    def _put(self, memory: npt.NDArray[np.unsignedinteger], span: Span) -> None:
        tag, pages, first_token, wanted = span
        size = self.shape.page_size
        ids = np.asarray(pages, np.int64)
        tokens = first_token + np.arange(len(ids) * size)
        chosen = (tokens >= wanted.start) & (tokens < wanted.stop)
        chosen &= np.repeat(ids != self.shape.null_page, size)
        at_page, in_page = np.repeat(ids, size)[chosen], np.tile(np.arange(size), len(ids))[chosen]
        for layer, kind, view in self._planes(memory):
            values = pattern(
                tag, (layer, kind), tokens[chosen], self.shape.heads, self.shape.elements
            )
            view[at_page, in_page] = values.astype(memory.dtype)

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

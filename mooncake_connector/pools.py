# SPDX-License-Identifier: Apache-2.0
"""Descriptions of paged memory: what a worker registers with the engine.

A `Plane` is one strided tensor of pages, a `PoolSpec` the planes that share page ids. They hold
addresses, not tensors: whoever makes them keeps the memory alive.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from mooncake_connector.arguments import PageIds, as_count
from mooncake_connector.errors import ConfigError

KINDS = ("k", "v", "kv", "mla", "state", "aux")
"""What a plane can hold. Planes pair by layer and kind; `kv` also pairs with `k` and `v`."""

_STRIDES = ("page_stride", "token_stride", "head_stride", "element_stride")
_DTYPE_BYTES = {
    "bool": 1,
    "int8": 1,
    "uint8": 1,
    "float8_e4m3fn": 1,
    "float8_e4m3fnuz": 1,
    "float8_e5m2": 1,
    "float8_e5m2fnuz": 1,
    "float8_e8m0fnu": 1,
    "int16": 2,
    "uint16": 2,
    "float16": 2,
    "bfloat16": 2,
    "int32": 4,
    "uint32": 4,
    "float32": 4,
    "int64": 8,
    "uint64": 8,
    "float64": 8,
}


@dataclass(frozen=True, slots=True)
class Plane:
    """One strided tensor of a pool.

    Element (page, token, head, element) lies at ``address + page * page_stride +
    token * token_stride + head * head_stride + element * element_stride``. Strides are in bytes and
    not negative; the stride of an axis with one index is never used.

    Attributes:
        address: of page 0, token 0, head 0, element 0.
        page_stride: from a page to the next one.
        token_stride: from a token to the next one in its page.
        head_stride: from a head to the next one.
        element_stride: from an element to the next one.
        heads: heads in this plane.
        elements: a token's elements in one head; for kind ``kv`` the first half is K, the second V.
        dtype: "bfloat16", "float8_e4m3fn", ...; must be equal on both sides.
        layer: number in the whole model.
        kind: one of `KINDS`.
        first_head: this plane's head 0 in the whole model.
        device: None for host memory, else the number of the CUDA device.
        element_bytes: size of one element; 0 takes it from the dtype.
        pages: how many there are, where that is known; a pool may not have more.
        page_tokens: how many a page has, where that is known; a pool's may not have more.
    """

    address: int
    page_stride: int
    token_stride: int
    head_stride: int
    element_stride: int
    heads: int
    elements: int
    dtype: str
    layer: int
    kind: str
    first_head: int = 0
    device: int | None = None
    element_bytes: int = 0
    pages: int | None = None
    page_tokens: int | None = None

    def __post_init__(self) -> None:
        for name in ("layer", "heads", "elements", "first_head"):
            as_count(getattr(self, name), f"plane {name}")
        for name in ("address", *_STRIDES):
            as_count(getattr(self, name), f"plane {name}", 64)
        if self.kind not in KINDS:
            raise ConfigError(f"plane kind {self.kind!r} is unknown; valid are {', '.join(KINDS)}")
        if self.element_bytes == 0:
            if self.dtype not in _DTYPE_BYTES:
                raise ConfigError(
                    f"the size of dtype {self.dtype!r} is unknown; give element_bytes, or one of "
                    f"{', '.join(_DTYPE_BYTES)}"
                )
            object.__setattr__(self, "element_bytes", _DTYPE_BYTES[self.dtype])

    @property
    def token_bytes(self) -> int:
        """Bytes of one token over all heads of this plane."""
        return self.heads * self.elements * self.element_bytes


@dataclass(frozen=True, slots=True)
class PoolSpec:
    """Planes with one page count and one page size: a worker's KV cache of one group, its rows, ...

    Attributes:
        name: pools of two engines pair by name.
        page_size: tokens of a page. A row pool (state, aux) has 1, and a "token" is a row.
        page_count: page ids are 0 to page_count - 1.
        planes: any sequence; kept as a tuple.
        null_page: the page id that means "no page here", if there is one.
        fingerprint: model and KV format; must be equal on both sides, since equal shapes do not
            mean equal models.
    """

    name: str
    page_size: int
    page_count: int
    planes: Sequence[Plane]
    null_page: int | None = None
    fingerprint: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "planes", tuple(self.planes))
        if not isinstance(self.name, str):
            raise ConfigError(f"a pool's name must be text, not {self.name!r}")
        of = f"pool {self.name!r}: "
        as_count(self.page_size, of + "page_size")
        as_count(self.page_count, of + "page_count", 31)
        if self.null_page is not None:
            as_count(self.null_page, of + "null_page", 31)
        for plane in self.planes:
            if plane.pages is not None and self.page_count > plane.pages:
                raise ConfigError(
                    f"{of}page_count={self.page_count}, but layer {plane.layer} ({plane.kind}) has "
                    f"{plane.pages} pages"
                )
            if plane.page_tokens is not None and self.page_size > plane.page_tokens:
                raise ConfigError(
                    f"{of}page_size={self.page_size}, but a page of layer {plane.layer} "
                    f"({plane.kind}) has {plane.page_tokens} tokens"
                )
        if len({plane.device for plane in self.planes}) > 1:
            raise ConfigError(
                f"pool {self.name!r}: its planes lie on different devices "
                f"({sorted({str(plane.device) for plane in self.planes})}); make one pool for each"
            )

    @property
    def device(self) -> int | None:
        """None for host memory, else the number of the CUDA device."""
        return self.planes[0].device if self.planes else None

    @property
    def token_bytes(self) -> int:
        """Bytes of one token over all planes."""
        return sum(plane.token_bytes for plane in self.planes)

    @property
    def page_bytes(self) -> int:
        """Bytes of one page over all planes."""
        return self.page_size * self.token_bytes


@dataclass(frozen=True, slots=True)
class _Strided:
    """What is needed of an array or tensor."""

    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # bytes
    dtype: str
    element_bytes: int
    device: int | None

    @classmethod
    def of(cls, array: Any) -> _Strided:
        if hasattr(array, "data_ptr"):
            element_bytes = int(array.element_size())
            on_host = array.device.type == "cpu"
            return cls(
                address=int(array.data_ptr()),
                shape=tuple(int(extent) for extent in array.shape),
                strides=tuple(int(stride) * element_bytes for stride in array.stride()),
                dtype=str(array.dtype).removeprefix("torch."),
                element_bytes=element_bytes,
                device=None if on_host else int(array.device.index or 0),
            )
        if hasattr(array, "__array_interface__"):
            return cls(
                address=int(array.__array_interface__["data"][0]),
                shape=tuple(array.shape),
                strides=tuple(array.strides),
                dtype=str(array.dtype),
                element_bytes=int(array.itemsize),
                device=None,
            )
        raise ConfigError(f"planes are made from numpy arrays and torch tensors, not {type(array)}")


_AXES = {
    "L": "layers",
    "S": "K and V (of extent 2)",
    "B": "pages",
    "H": "heads",
    "N": "tokens of a page",
    "C": "elements",
}


def planes_from_array(
    array: Any,
    axes: str,
    *,
    layer: int = 0,
    kind: str = "kv",
    first_head: int = 0,
) -> list[Plane]:
    """Describes a numpy array or torch tensor of pages; reads its address and strides only.

    Args:
        array: any strides, as long as none is negative.
        axes: one letter for each axis, as it stands in ``array.shape``: L layers, S K and V (of
            extent 2), B pages, H heads, N tokens of a page, C elements. Without L there is one
            layer, without H one head, without N one token a page; B and C must be there.
            ``"BHNC"`` is [pages, heads, tokens, elements].
        layer: of the array, or of its first layer.
        kind: what the elements are; with an S axis the planes are ``k`` and ``v``, and kind must be
            ``kv``.
        first_head: the array's head 0 in the whole model.

    Returns:
        One plane for each layer, or two with an S axis (K first).

    Raises:
        ConfigError: the axes do not fit the array.
    """
    strided = _Strided.of(array)
    _check_axes(strided, axes, kind)
    extents = dict(zip(axes, strided.shape, strict=True))
    strides = dict(zip(axes, strided.strides, strict=True))
    kinds = ("k", "v") if "S" in axes else (kind,)
    return [
        Plane(
            address=strided.address + index * strides.get("L", 0) + half * strides.get("S", 0),
            page_stride=strides["B"],
            token_stride=strides.get("N", 0),
            head_stride=strides.get("H", 0),
            element_stride=strides["C"],
            heads=extents.get("H", 1),
            elements=extents["C"],
            dtype=strided.dtype,
            layer=layer + index,
            kind=plane_kind,
            first_head=first_head,
            device=strided.device,
            element_bytes=strided.element_bytes,
            pages=extents["B"],
            page_tokens=extents.get("N", 1),
        )
        for index in range(extents.get("L", 1))
        for half, plane_kind in enumerate(kinds)
    ]


class Pool:
    """A pool registered with one engine. Made by `Engine.register_pool`."""

    def __init__(self, spec: PoolSpec) -> None:
        self.spec: Final = spec

    @property
    def name(self) -> str:
        """By which pools of two engines pair."""
        return self.spec.name

    @property
    def page_size(self) -> int:
        """Tokens of a page."""
        return self.spec.page_size

    @property
    def page_count(self) -> int:
        """Page ids are 0 to page_count - 1."""
        return self.spec.page_count

    def __repr__(self) -> str:
        return f"Pool({self.name!r}, {self.page_count} pages of {self.page_size} tokens)"


Part = tuple[Pool, PageIds]
"""A pool and pages of it."""

WindowedPart = tuple[Pool, PageIds, int]
"""A pool, pages of it, and the number of a token: what it says depends on the call."""


def memory_of(memory: Any) -> tuple[int, int, int | None, object]:
    """Address, bytes and CUDA device (None: host) of contiguous memory, and what keeps it there.

    Args:
        memory: a tensor, an array, a writable buffer, or (address, nbytes, device).

    Returns:
        The fourth holds the memory: while it lives, a buffer cannot be resized or closed.

    Raises:
        ConfigError: it is not contiguous, or not writable.
    """
    if isinstance(memory, tuple):
        if len(memory) != len(("address", "nbytes", "device")):
            raise ConfigError(f"{memory!r} is not (address, nbytes, device)")
        address, nbytes, device = memory
        if device is not None:
            device = as_count(device, "device", 31)
        return as_count(address, "address", 64), as_count(nbytes, "nbytes", 64), device, None
    if not hasattr(memory, "data_ptr"):
        try:
            memory = np.frombuffer(memory, np.uint8)
        except (ValueError, BufferError, TypeError) as error:
            raise ConfigError(f"cannot register {type(memory).__name__}: {error}") from None
        if not memory.flags.writeable:
            raise ConfigError("cannot register read-only memory")
        return int(memory.ctypes.data), int(memory.nbytes), None, memory
    if not memory.is_contiguous():
        raise ConfigError("cannot register a tensor that is not contiguous")
    strided = _Strided.of(memory)
    return strided.address, int(memory.nbytes), strided.device, memory


def _check_axes(strided: _Strided, axes: str, kind: str) -> None:
    unknown = set(axes) - set(_AXES)
    if unknown or len(set(axes)) != len(axes) or not {"B", "C"} <= set(axes):
        meanings = ", ".join(f"{letter} {meaning}" for letter, meaning in _AXES.items())
        raise ConfigError(
            f"axes {axes!r}: each letter may stand once, B and C must; letters are {meanings}"
        )
    if len(axes) != len(strided.shape):
        raise ConfigError(f"axes {axes!r} do not fit an array of shape {strided.shape}")
    if min(strided.strides) < 0:
        raise ConfigError(f"an array with negative strides {strided.strides} cannot be described")
    if "S" in axes:
        if strided.shape[axes.index("S")] != len(("k", "v")):
            raise ConfigError(f"axes {axes!r}: the S axis of {strided.shape} must have extent 2")
        if kind != "kv":
            raise ConfigError(f"an S axis separates K and V, so kind must be 'kv', not {kind!r}")


__all__ = [
    "KINDS",
    "Part",
    "Plane",
    "Pool",
    "PoolSpec",
    "WindowedPart",
    "memory_of",
    "planes_from_array",
]

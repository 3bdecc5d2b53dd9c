# SPDX-License-Identifier: Apache-2.0
"""Descriptions of arrays and tensors as planes."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mooncake_connector.errors import ConfigError
from mooncake_connector.pools import Plane, PoolSpec, memory_of, planes_from_array


def address_of(array: np.ndarray, *index: int) -> int:
    from_there_on = array[tuple(slice(i, None) for i in index)]
    return int(from_there_on.__array_interface__["data"][0])


class FakeTensor:
    """As much of a torch tensor as is read: [5 pages, 2 heads, 4 tokens, 6 elements] of 2 bytes."""

    shape = (5, 2, 4, 6)
    dtype = "torch.bfloat16"
    nbytes = 480

    def __init__(self, device: str, index: int | None) -> None:
        self.device = SimpleNamespace(type=device, index=index)

    def data_ptr(self) -> int:
        return 4096

    def element_size(self) -> int:
        return 2

    def stride(self) -> tuple[int, ...]:
        return (48, 24, 6, 1)

    def is_contiguous(self) -> bool:
        return True


def test_an_array_of_one_layer_is_one_plane() -> None:
    array = np.zeros((5, 2, 4, 6), np.float32)
    (plane,) = planes_from_array(array, "BHNC", layer=3, kind="kv", first_head=8)
    assert plane == Plane(
        address=address_of(array),
        page_stride=192,
        token_stride=24,
        head_stride=96,
        element_stride=4,
        heads=2,
        elements=6,
        dtype="float32",
        layer=3,
        kind="kv",
        first_head=8,
        device=None,
        element_bytes=4,
        pages=5,
        page_tokens=4,
    )
    assert plane.token_bytes == 48


def test_strides_are_those_of_a_view() -> None:
    array = np.zeros((6, 4, 5, 8), np.float16)
    view = array[1::2, :, ::2, 2:6].transpose(0, 2, 1, 3)  # [pages, heads, tokens, elements]
    (plane,) = planes_from_array(view, "BHNC")
    assert plane.address == address_of(array, 1, 0, 0, 2)
    assert (plane.page_stride, plane.head_stride, plane.token_stride) == (640, 32, 80)
    assert (plane.heads, plane.elements) == (3, 4)


def test_a_layer_axis_makes_a_plane_for_each_layer() -> None:
    array = np.zeros((5, 3, 4, 6), np.uint8)
    planes = planes_from_array(array, "BLNC", layer=10, kind="mla")
    assert [plane.layer for plane in planes] == [10, 11, 12]
    assert [plane.address for plane in planes] == [address_of(array, 0, i) for i in range(3)]
    assert {plane.heads for plane in planes} == {1}


def test_a_split_axis_makes_planes_of_k_and_v() -> None:
    array = np.zeros((2, 5, 4, 3, 6), np.uint8)
    k, v = planes_from_array(array, "SBNHC")
    assert (k.kind, v.kind) == ("k", "v")
    assert v.address == address_of(array, 1)
    assert dataclasses.replace(v, kind="k", address=k.address) == k


def test_rows_have_one_token_and_one_head() -> None:
    (plane,) = planes_from_array(np.zeros((5, 6), np.uint8), "BC", kind="aux")
    assert (plane.heads, plane.token_stride, plane.elements) == (1, 0, 6)


@pytest.mark.parametrize(("device", "index", "expected"), [("cpu", None, None), ("cuda", 3, 3)])
def test_tensors_are_described_like_arrays(
    device: str, index: int | None, expected: int | None
) -> None:
    (plane,) = planes_from_array(FakeTensor(device, index), "BHNC")
    assert (plane.address, plane.dtype, plane.element_bytes) == (4096, "bfloat16", 2)
    assert (plane.page_stride, plane.head_stride, plane.token_stride) == (96, 48, 12)
    assert plane.device == expected
    tensor = FakeTensor(device, index)
    assert memory_of(tensor) == (4096, 480, expected, tensor)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"page_count": 9}, "page_count=9, but layer 0 .mla. has 8 pages"),
        ({"page_size": 5}, "page_size=5, but a page of layer 0 .mla. has 4 tokens"),
        ({"page_count": -1}, "page_count=-1 is not a whole number"),
        ({"page_size": 8.0}, "page_size=8.0 is not a whole number"),
        ({"null_page": 1 << 40}, "null_page=1099511627776"),
        ({"name": 5}, "must be text, not 5"),
    ],
)
def test_a_pool_has_no_more_than_its_array(change: dict[str, Any], message: str) -> None:
    planes = planes_from_array(np.zeros((8, 4, 6), np.uint8), "BNC", kind="mla")
    good: dict[str, Any] = {"name": "kv", "page_size": 4, "page_count": 8, "planes": planes}
    PoolSpec(**good)
    with pytest.raises(ConfigError, match=message):
        PoolSpec(**{**good, **change})


@pytest.mark.parametrize("name", ["layer", "first_head", "heads", "address", "page_stride"])
def test_negative_numbers_describe_no_plane(name: str) -> None:
    (plane,) = planes_from_array(np.zeros((8, 4, 6), np.uint8), "BNC", kind="mla")
    with pytest.raises(ConfigError, match=f"plane {name}=-1 is not a whole number"):
        dataclasses.replace(plane, **{name: -1})


@pytest.mark.parametrize(
    ("axes", "kind", "message"),
    [
        ("BHN", "kv", "each letter may stand once"),
        ("HNCC", "kv", "each letter may stand once"),
        ("BHNX", "kv", "letters are L layers"),
        ("BNC", "kv", "do not fit an array of shape"),
        ("BSNC", "k", "kind must be 'kv'"),
        ("SBNC", "kv", "must have extent 2"),
        ("BHNC", "q", "plane kind 'q' is unknown"),
    ],
)
def test_axes_that_do_not_fit_are_refused(axes: str, kind: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        planes_from_array(np.zeros((5, 2, 4, 6)), axes, kind=kind)


def test_negative_strides_are_refused() -> None:
    with pytest.raises(ConfigError, match="negative strides"):
        planes_from_array(np.zeros((5, 6))[::-1], "BC")


def test_what_is_no_array_is_refused() -> None:
    with pytest.raises(ConfigError, match="not <class 'list'>"):
        planes_from_array([[1, 2]], "BC")


def test_the_size_of_an_unknown_dtype_must_be_given() -> None:
    with pytest.raises(ConfigError, match="dtype 'int3' is unknown; give element_bytes"):
        Plane(1, 1, 1, 1, 1, 1, 1, "int3", 0, "kv")
    assert Plane(1, 1, 1, 1, 1, 1, 1, "int3", 0, "kv", element_bytes=3).element_bytes == 3
    assert Plane(1, 1, 1, 1, 1, 1, 1, "float8_e4m3fn", 0, "kv").element_bytes == 1


def test_a_pool_knows_the_bytes_of_a_page() -> None:
    spec = PoolSpec("kv", 4, 5, planes_from_array(np.zeros((5, 2, 4, 6), np.float32), "BLNC"))
    assert spec.token_bytes == 48
    assert spec.page_bytes == 192
    assert isinstance(spec.planes, tuple)
    assert spec.device is None


def test_a_pool_lies_on_one_device() -> None:
    planes = [Plane(1, 1, 1, 1, 1, 1, 1, "uint8", i, "kv", device=i or None) for i in range(2)]
    with pytest.raises(ConfigError, match="different devices"):
        PoolSpec("kv", 1, 1, planes)

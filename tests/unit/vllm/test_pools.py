# SPDX-License-Identifier: Apache-2.0
"""Planes against real tensors: what they describe is where vLLM's kernels put a token."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
import torch
from vllm import _custom_ops as ops
from vllm.v1.attention.backends.cpu_attn import _get_attn_isa

from mooncake_connector.errors import UnsupportedError
from mooncake_connector.pools import Plane
from mooncake_connector.vllm.pools import (
    BlockFormat,
    CpuVectorFormat,
    Layer,
    OpaqueFormat,
    StridedFormat,
    describe_group,
)

BLOCKS, HEADS, TOKENS, DIM = 5, 2, 64, 32


def read(plane: Plane, page: int, token: int, head: int, element: int) -> float:
    """One float32 element by the plane's own arithmetic."""
    address = (
        plane.address
        + page * plane.page_stride
        + token * plane.token_stride
        + head * plane.head_stride
        + element * plane.element_stride
    )
    return ctypes.c_float.from_address(address).value


def layer_of(tensor: torch.Tensor, first_head: int = 0, latent: bool = False) -> Layer:
    return Layer(index=3, tensor=tensor, first_head=first_head, latent=latent)


def test_the_cpu_kernel_puts_tokens_where_the_planes_say() -> None:
    """Fails when vLLM changes the order of its CPU blocks: then the format must change too."""
    assert _get_attn_isa(torch.float32, TOKENS, DIM) == "vec"
    cache = torch.zeros(BLOCKS, HEADS, TOKENS, 2 * DIM)
    keys = torch.randn(TOKENS, HEADS, DIM)
    values = torch.randn(TOKENS, HEADS, DIM)
    halves = cache.view(BLOCKS, HEADS, 2 * TOKENS, DIM).chunk(2, dim=2)
    slots = torch.arange(TOKENS) + 2 * TOKENS
    ops.cpu_attn_reshape_and_cache(keys, values, *halves, slots, "vec")

    planes = CpuVectorFormat().planes(layer_of(cache))
    key_planes = {plane.first_head // DIM: plane for plane in planes if plane.kind == "k"}
    (value_plane,) = (plane for plane in planes if plane.kind == "v")
    rng = np.random.default_rng(0)
    for token, head, dim in rng.integers((TOKENS, HEADS, DIM), size=(500, 3)).tolist():
        assert read(key_planes[head], 2, token, dim, 0) == keys[token, head, dim].item()
        assert read(value_plane, 2, token, head, dim) == values[token, head, dim].item()


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 1, 3)], ids=["heads first", "tokens first"])
def test_strides_are_taken_from_the_tensor(order: tuple[int, ...]) -> None:
    shape = (BLOCKS, HEADS, TOKENS, 2 * DIM)
    tensor = torch.randn([shape[axis] for axis in order]).permute(order)
    assert tensor.shape == shape
    (plane,) = StridedFormat().planes(layer_of(tensor, first_head=6))
    assert (plane.kind, plane.layer, plane.first_head) == ("kv", 3, 6)
    assert read(plane, 4, 17, 1, 40) == tensor[4, 1, 17, 40].item()


def test_latents_are_one_head() -> None:
    (plane,) = StridedFormat().planes(layer_of(torch.zeros(BLOCKS, 1, TOKENS, 576), latent=True))
    assert (plane.kind, plane.heads, plane.elements) == ("mla", 1, 576)


@pytest.mark.parametrize(
    "block_format", [StridedFormat(), CpuVectorFormat(), OpaqueFormat("x", 64)]
)
def test_planes_cover_each_byte_of_a_block_once(block_format: BlockFormat) -> None:
    tensor = torch.zeros(BLOCKS, HEADS, TOKENS, 2 * DIM)
    covered = np.zeros(tensor[0].numel(), dtype=int)
    for plane in block_format.planes(layer_of(tensor)):
        offset = plane.address - tensor.data_ptr()
        grid = np.indices((TOKENS, plane.heads, plane.elements))
        strides = (plane.token_stride, plane.head_stride, plane.element_stride)
        places = offset + sum(axis * stride for axis, stride in zip(grid, strides, strict=True))
        np.add.at(covered, places.ravel() // 4, 1)
    assert (covered == 1).all()


def test_a_group_is_one_pool() -> None:
    layers = [layer_of(torch.zeros(BLOCKS, HEADS, TOKENS, 2 * DIM)) for _ in range(2)]
    pool = describe_group(1, layers, StridedFormat(), TOKENS, "model")
    assert (pool.name, pool.page_size, pool.page_count, pool.null_page) == ("kv.1", 64, 5, 0)
    assert len(pool.planes) == 2


def test_the_fingerprint_names_the_block_format() -> None:
    layers = [layer_of(torch.zeros(BLOCKS, HEADS, TOKENS, 2 * DIM))]
    prints = {
        describe_group(0, layers, block_format, TOKENS, "model").fingerprint
        for block_format in (StridedFormat(), CpuVectorFormat(), OpaqueFormat("cpu-amx", TOKENS))
    }
    assert prints == {"model|strided", "model|cpu-vector", "model|cpu-amx, 64 tokens"}


def test_split_blocks_are_refused() -> None:
    layers = [layer_of(torch.zeros(BLOCKS, HEADS, TOKENS, 2 * DIM))]
    with pytest.raises(UnsupportedError, match="--block-size 64"):
        describe_group(0, layers, StridedFormat(), 128, "model")


def test_unknown_shapes_are_refused() -> None:
    layers = [layer_of(torch.zeros(2, BLOCKS, HEADS, TOKENS, DIM))]
    with pytest.raises(UnsupportedError, match=r"has shape \(2, 5, 2, 64, 32\)"):
        describe_group(0, layers, StridedFormat(), TOKENS, "model")

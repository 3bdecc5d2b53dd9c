# SPDX-License-Identifier: Apache-2.0
"""Describes vLLM's KV tensors to the engine: one pool for each KV cache group.

vLLM hands over one tensor per layer, of logical shape [blocks, KV heads, tokens, content] with
any strides; all layers, and all groups of a hybrid model, may share one storage. The strides say
where a token's bytes are, except in the CPU backend, whose kernels order a block in their own way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

from mooncake_connector.errors import UnsupportedError
from mooncake_connector.pools import Plane, PoolSpec
from mooncake_connector.vllm.compat import layer_specs

if TYPE_CHECKING:
    import torch
    from vllm.config import VllmConfig
    from vllm.v1.kv_cache_interface import KVCacheConfig, KVCacheSpec

NULL_BLOCK = 0
"""vLLM's placeholder for blocks outside a sliding window; every group's page 0."""

_DIMENSIONS = 4


class BlockFormat(Protocol):
    """How the bytes of a block are ordered."""

    @property
    def name(self) -> str:
        """Its name in fingerprints: blocks of one name can be copied into each other."""

    @property
    def granule(self) -> int:
        """The fewest tokens, from a multiple of it on, that lie on bytes of their own."""

    def planes(self, layer: Layer) -> list[Plane]:
        """Describes one layer's tensor."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer's tensor, and its share of the model.

    Attributes:
        index: the layer's number in the whole model.
        tensor: [blocks, KV heads, tokens of a block, content of a token].
        first_head: the tensor's first KV head in the whole model.
        latent: whether the content is an MLA latent, not K and V.
    """

    index: int
    tensor: torch.Tensor
    first_head: int
    latent: bool

    @property
    def heads(self) -> int:
        """KV heads of this tensor."""
        return int(self.tensor.shape[1])

    @property
    def block_tokens(self) -> int:
        """Tokens of a block."""
        return int(self.tensor.shape[2])

    @property
    def content(self) -> int:
        """Elements of one token in one head: K and V, or the latent."""
        return int(self.tensor.shape[3])

    @property
    def element_bytes(self) -> int:
        """Bytes of one element."""
        return int(self.tensor.element_size())

    def stride(self, axis: int) -> int:
        """Distance between neighbours on an axis, in bytes."""
        return int(self.tensor.stride(axis)) * self.element_bytes

    def plane(
        self,
        kind: str,
        *,
        offset: int,
        token: int,
        head: int,
        element: int,
        heads: int,
        elements: int,
        first_head: int,
    ) -> Plane:
        """A plane of this tensor; offset and strides in bytes."""
        device = self.tensor.device
        return Plane(
            address=self.tensor.data_ptr() + offset,
            page_stride=self.stride(0),
            token_stride=token,
            head_stride=head,
            element_stride=element,
            heads=heads,
            elements=elements,
            dtype=str(self.tensor.dtype).removeprefix("torch."),
            layer=self.index,
            kind=kind,
            first_head=first_head,
            device=None if device.type == "cpu" else device.index or 0,
        )


@dataclass(frozen=True)
class StridedFormat:
    """The tensor's own strides tell where everything is: all GPU backends, and MLA."""

    name: ClassVar[str] = "strided"
    granule: ClassVar[int] = 1

    def planes(self, layer: Layer) -> list[Plane]:
        """One plane: K beside V in the last axis, or the latent."""
        return [
            layer.plane(
                "mla" if layer.latent else "kv",
                offset=0,
                token=layer.stride(2),
                head=layer.stride(1),
                element=layer.stride(3),
                heads=layer.heads,
                elements=layer.content,
                first_head=layer.first_head,
            )
        ]


@dataclass(frozen=True)
class CpuVectorFormat:
    """A block of the CPU backend's plain vector kernels.

    Whatever the tensor's shape says, one head's share of a block is K transposed, [dim][token],
    then V, [token][dim]. The transposed K is told to the engine as ``dim`` heads of one element
    for each KV head, so that neighbouring tokens are what it finds side by side.
    """

    name: ClassVar[str] = "cpu-vector"

    # All page sizes of this backend are multiples of 32. Rounding to that keeps whole small pages
    # in one piece, and still lets pages of different sizes be copied into each other.
    granule: ClassVar[int] = 32

    def planes(self, layer: Layer) -> list[Plane]:
        """One K plane for each head, and one V plane."""
        dim = layer.content // 2
        element = layer.element_bytes
        row = layer.block_tokens * element
        keys = [
            layer.plane(
                "k",
                offset=head * layer.stride(1),
                token=element,
                head=row,
                element=element,
                heads=dim,
                elements=1,
                first_head=(layer.first_head + head) * dim,
            )
            for head in range(layer.heads)
        ]
        values = layer.plane(
            "v",
            offset=dim * row,
            token=dim * element,
            head=layer.stride(1),
            element=element,
            heads=layer.heads,
            elements=dim,
            first_head=layer.first_head,
        )
        return [*keys, values]


@dataclass(frozen=True)
class OpaqueFormat:
    """A block whose inner order only its kernel knows: copied whole, between equal block sizes."""

    kernel: str
    granule: int

    @property
    def name(self) -> str:
        """Names the block size too, since blocks of another one are something else."""
        return f"{self.kernel}, {self.granule} tokens"

    def planes(self, layer: Layer) -> list[Plane]:
        """One plane of opaque bytes for each head, counted as tokens only to have a page size."""
        return [
            layer.plane(
                "state",
                offset=0,
                token=layer.stride(2),
                head=layer.stride(1),
                element=layer.stride(3),
                heads=layer.heads,
                elements=layer.content,
                first_head=layer.first_head,
            )
        ]


@dataclass(frozen=True, slots=True)
class GroupPools:
    """The pools of all KV cache groups, and the granule to which token counts are rounded."""

    pools: dict[int, PoolSpec]
    granule: int


def describe_group(
    number: int, layers: list[Layer], block_format: BlockFormat, page_size: int, fingerprint: str
) -> PoolSpec:
    """The pool of one KV cache group.

    Args:
        number: the group's number; pools of P and D pair by it.
        layers: the group's layers.
        block_format: how their blocks are ordered.
        page_size: tokens of a block, as the scheduler counts.
        fingerprint: what must be equal on both sides.

    Raises:
        UnsupportedError: a tensor does not have the shape that this adapter understands.
    """
    for layer in layers:
        _check_shape(layer, page_size)
    return PoolSpec(
        name=f"kv.{number}",
        page_size=page_size,
        page_count=int(layers[0].tensor.shape[0]),
        planes=[plane for layer in layers for plane in block_format.planes(layer)],
        null_page=NULL_BLOCK,
        fingerprint=f"{fingerprint}|{block_format.name}",
    )


def _check_shape(layer: Layer, page_size: int) -> None:
    shape = tuple(layer.tensor.shape)
    if len(shape) != _DIMENSIONS:
        raise UnsupportedError(
            f"layer {layer.index}: the KV tensor has shape {shape}; this adapter knows "
            "[blocks, heads, tokens, content] only"
        )
    if layer.block_tokens != page_size:
        raise UnsupportedError(
            f"layer {layer.index}: the attention kernel splits blocks of {page_size} tokens into "
            f"{layer.block_tokens}; choose --block-size {layer.block_tokens}"
        )


def describe_groups(
    config: VllmConfig,
    cache: KVCacheConfig,
    tensors: Mapping[str, torch.Tensor],
    first_head: Callable[[int], int],
    fingerprint: str,
) -> GroupPools:
    """The pools of all KV cache groups that take part in transfers.

    Args:
        config: vLLM's configuration.
        cache: its KV cache groups.
        tensors: the KV tensor of each layer, by the layer's name.
        first_head: tells, of so many KV heads of a layer, the first one that is in the tensors.
        fingerprint: what must be equal on both sides.

    Raises:
        UnsupportedError: a tensor or an attention backend is of an unknown kind.
    """
    from vllm.model_executor.models.utils import extract_layer_index

    total_heads = config.model_config.get_total_num_kv_heads()
    pools: dict[int, PoolSpec] = {}
    granules: set[int] = set()
    for number in cache.transfer_group_ids:
        group = cache.kv_cache_groups[number]
        page_size = group.kv_cache_spec.block_size
        specs = layer_specs(group.kv_cache_spec)
        layers, formats, kinds = [], set(), set()
        for name in group.layer_names:
            spec = specs.get(name) or specs[""]
            latent = "MLA" in type(spec).__name__
            head = 0 if latent else first_head(total_heads)
            layers.append(Layer(extract_layer_index(name), tensors[name], head, latent))
            formats.add(_block_format(config, name, spec))
            kinds.add(type(spec).__name__)
        if len(formats) != 1:
            raise UnsupportedError(f"KV cache group {number} mixes block formats: {formats}")
        (block_format,) = formats
        granules.add(block_format.granule)
        pools[number] = describe_group(
            number, layers, block_format, page_size, "|".join([fingerprint, *sorted(kinds)])
        )
    if len(granules) != 1:
        raise UnsupportedError(
            f"KV cache groups whose tokens can only be copied in steps of {sorted(granules)}"
        )
    return GroupPools(pools, granules.pop())


def _block_format(config: VllmConfig, layer_name: str, spec: KVCacheSpec) -> BlockFormat:
    """How a layer's blocks are ordered, asked of its attention backend."""
    layer = config.compilation_config.static_forward_context[layer_name]
    if layer.get_attn_backend().get_name() != "CPU_ATTN":
        return StridedFormat()
    try:
        from vllm.v1.attention.backends.cpu_attn import _get_attn_isa
    except ImportError as error:
        raise UnsupportedError(
            f"cannot tell how this vLLM's CPU backend orders its KV blocks: {error}"
        ) from None
    kernel = _get_attn_isa(spec.dtype, spec.block_size, spec.head_size)
    return CpuVectorFormat() if kernel == "vec" else OpaqueFormat(f"cpu-{kernel}", spec.block_size)

# SPDX-License-Identifier: Apache-2.0
"""Describes SGLang's KV cache, request state and metadata rows to the engine.

SGLang hands over ``KVArgs``: for each region of memory an address, a length and the bytes of one
page, and says beside it how many KV heads the model has. Regions of full attention are the K of
every layer, then the V of every layer; of MLA, the latents of every layer. A page is
[tokens, heads, elements].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from mooncake_connector.errors import UnsupportedError
from mooncake_connector.pools import Plane, PoolSpec

if TYPE_CHECKING:
    from sglang.srt.disaggregation.base import KVArgs

KV_POOL: Final = "kv"
AUX_POOL: Final = "aux"

# State that is addressed by pages of the KV cache's size: the last ones of the sequence, up to its
# end. The others in the table are rows of a request.
_TAIL_STATES = frozenset({"swa", "dsa"})
_ROW_STATES = frozenset({"mamba"})
# State that every tensor-parallel rank holds as a whole.
_REPLICATED_STATES = frozenset({"dsa"})
# A layer's regions of state get numbers of their own; Mamba's have three at most.
_MOST_REGIONS_OF_A_LAYER = 64
SUPPORTED_STATES: Final = _TAIL_STATES | _ROW_STATES


@dataclass(frozen=True, slots=True)
class Regions:
    """Parallel lists of memory regions: address, bytes, and bytes of one page or row."""

    addresses: Sequence[int]
    lengths: Sequence[int]
    item_bytes: Sequence[int]

    @property
    def items(self) -> int:
        """Pages or rows that every region has."""
        sizes = zip(self.lengths, self.item_bytes, strict=True)
        return min((length // item for length, item in sizes), default=0)

    def __len__(self) -> int:
        return len(self.addresses)


@dataclass(frozen=True, slots=True)
class ModelShare:
    """What a worker holds of the model.

    Attributes:
        kv_heads: of the whole model; not used for latents.
        tp_rank: the worker's rank among those that share the heads of attention.
        tp_size: how many of these there are.
        first_layer: of this pipeline stage.
        stages: pipeline stages.
        latent: whether the cache holds MLA latents instead of K and V.
        fingerprint: what must be equal on both sides.
        device: None for host memory, else the number of the CUDA device.
    """

    kv_heads: int
    tp_rank: int
    tp_size: int
    first_layer: int
    stages: int
    latent: bool
    fingerprint: str
    device: int | None = None

    @property
    def heads(self) -> int:
        """KV heads in each of this worker's regions."""
        return max(1, self.kv_heads // self.tp_size)

    @property
    def first_head(self) -> int:
        """The first of them in the whole model; ranks beyond the heads share one."""
        return self.tp_rank * self.kv_heads // self.tp_size


@dataclass(frozen=True, slots=True)
class StatePool:
    """A state component's pool.

    Attributes:
        spec: for the engine.
        tail: whether its indices are the sequence's last pages, not rows.
    """

    spec: PoolSpec
    tail: bool


def kv_regions(args: KVArgs) -> Regions:
    """The KV cache that the model reads."""
    return Regions(args.kv_data_ptrs, args.kv_data_lens, args.kv_item_lens)


def host_kv_regions(args: KVArgs) -> Regions | None:
    """The KV cache's copy in host memory, if the decode server receives into that."""
    if args.host_kv_data_ptrs is None:
        return None
    return Regions(args.host_kv_data_ptrs, args.host_kv_data_lens, args.host_kv_item_lens)


def state_regions(args: KVArgs, *, host: bool = False) -> list[Regions]:
    """The state components, in the order of ``state_types``."""
    if host:
        lists = (args.host_state_data_ptrs, args.host_state_data_lens, args.host_state_item_lens)
        if lists[0] is None:
            return []
    else:
        lists = (args.state_data_ptrs, args.state_data_lens, args.state_item_lens)
    return [Regions(*component) for component in zip(*lists, strict=True)]


def describe_kv(args: KVArgs, regions: Regions, share: ModelShare) -> PoolSpec:
    """The pool of the KV cache.

    Raises:
        UnsupportedError: the regions are not what this adapter understands.
    """
    layers = _layers(args, len(regions), share)
    heads = getattr(args, "kv_head_num", share.heads)  # SGLang tells it at P only
    if not share.latent and heads != share.heads:
        raise UnsupportedError(
            f"this KV cache has {heads} heads, but {share.tp_size} ranks share the model's "
            f"{share.kv_heads}; mooncake_connector does not know this layout"
        )
    return PoolSpec(
        name=KV_POOL,
        page_size=args.page_size,
        page_count=regions.items,
        planes=[
            _page_plane(regions, index, args.page_size, share, kind=kind, layer=layer)
            for index, (layer, kind) in enumerate(layers)
        ],
        fingerprint=f"{share.fingerprint}|{args.page_size} tokens a page",
    )


def _layers(args: KVArgs, regions: int, share: ModelShare) -> list[tuple[int, str]]:
    """Layer and kind of each region."""
    kinds = ("mla",) if share.latent else ("k", "v")
    if regions == 0 or regions % len(kinds):
        raise UnsupportedError(
            f"this KV cache has {regions} regions; mooncake_connector knows one for each layer "
            "(MLA), or K and V of each layer"
        )
    count = regions // len(kinds)
    layers = list(args.kv_layer_ids[:count])
    if not layers:
        layers = list(range(share.first_layer, share.first_layer + count))
    return [(layer, kind) for kind in kinds for layer in layers]


def _page_plane(
    regions: Regions, index: int, page_size: int, share: ModelShare, *, kind: str, layer: int
) -> Plane:
    heads = 1 if share.latent else share.heads
    page_bytes = regions.item_bytes[index]
    token_bytes, rest = divmod(page_bytes, page_size)
    head_bytes, more = divmod(token_bytes, heads)
    if rest or more:
        raise UnsupportedError(
            f"layer {layer}: a page of {page_bytes} bytes does not hold {page_size} tokens of "
            f"{heads} KV heads; mooncake_connector does not know this layout"
        )
    return Plane(
        address=regions.addresses[index],
        page_stride=page_bytes,
        token_stride=token_bytes,
        head_stride=head_bytes,
        element_stride=1,
        heads=heads,
        elements=head_bytes,
        dtype="uint8",
        layer=layer,
        kind=kind,
        first_head=0 if share.latent else share.first_head,
        device=share.device,
    )


def describe_states(
    args: KVArgs, components: Sequence[Regions], share: ModelShare
) -> list[StatePool]:
    """The pools of a request's state, in the order of ``state_types``.

    Raises:
        UnsupportedError: a kind of state that this adapter cannot carry.
    """
    pools = []
    for number, (regions, state_type) in enumerate(zip(components, args.state_types, strict=False)):
        name = str(state_type.value)
        if name not in SUPPORTED_STATES:
            raise UnsupportedError(
                f"this model keeps {name} state beside its KV cache, which mooncake_connector does "
                f"not carry; it carries {', '.join(sorted(SUPPORTED_STATES))}"
            )
        tail = name in _TAIL_STATES
        page_size = args.page_size if tail else 1
        ids = args.state_layer_ids[number] if number < len(args.state_layer_ids) else []
        if share.stages > 1 and not ids:
            raise UnsupportedError(
                f"SGLang does not say which layers the {name} state of a pipeline stage belongs "
                "to; use --pp-size 1"
            )
        # Who holds which share of a state is known only where it is whole, or shared alike.
        shared = "" if name in _REPLICATED_STATES else f"|tp {share.tp_size}"
        pools.append(
            StatePool(
                PoolSpec(
                    name=name,
                    page_size=page_size,
                    page_count=regions.items,
                    planes=_opaque_planes(regions, page_size, share.device, "state", ids),
                    fingerprint=f"{share.fingerprint}|{page_size} tokens a page{shared}",
                ),
                tail,
            )
        )
    return pools


def describe_aux(args: KVArgs, share: ModelShare) -> PoolSpec:
    """The rows in which P's metadata (first token, logarithms of probabilities) travel."""
    regions = Regions(args.aux_data_ptrs, args.aux_data_lens, args.aux_item_lens)
    return PoolSpec(
        name=AUX_POOL,
        page_size=1,
        page_count=regions.items,
        planes=_opaque_planes(regions, 1, None, "aux", ()),
        fingerprint=share.fingerprint,
    )


def _opaque_planes(
    regions: Regions, page_size: int, device: int | None, kind: str, layer_ids: Sequence[int]
) -> list[Plane]:
    """One plane of bytes for each region, numbered so that both sides' pair."""
    occurrences: dict[int, int] = {}
    planes = []
    for index, (address, item) in enumerate(
        zip(regions.addresses, regions.item_bytes, strict=True)
    ):
        number = index
        if layer_ids:
            layer = layer_ids[index]
            occurrence = occurrences[layer] = occurrences.get(layer, -1) + 1
            number = layer * _MOST_REGIONS_OF_A_LAYER + occurrence
        token_bytes = item // page_size
        planes.append(
            Plane(
                address=address,
                page_stride=item,
                token_stride=token_bytes,
                head_stride=token_bytes,
                element_stride=1,
                heads=1,
                elements=token_bytes,
                dtype="uint8",
                layer=number,
                kind=kind,
                device=device,
            )
        )
    return planes


def index_array(indices: Any) -> npt.NDArray[np.int32]:
    """A state's indices as one int32 array; SGLang wraps some of them in a list."""
    if isinstance(indices, (list, tuple)):
        indices = np.concatenate([np.ravel(part) for part in indices]) if indices else []
    return np.asarray(indices, dtype=np.int32)

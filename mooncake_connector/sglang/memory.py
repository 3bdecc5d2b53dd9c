# SPDX-License-Identifier: Apache-2.0
"""An engine with the pools of one kind of memory, made from what SGLang tells of a worker."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sglang.srt.configs.model_config import ModelConfig
from sglang.srt.distributed.utils import get_pp_indices
from sglang.srt.runtime_context import get_device, get_parallel

from mooncake_connector.config import ConnectorConfig, EngineConfig
from mooncake_connector.engine import Engine
from mooncake_connector.fingerprint import model_fingerprint
from mooncake_connector.pools import Part as RowPart
from mooncake_connector.pools import Pool, WindowedPart
from mooncake_connector.sglang.devices import parse_devices
from mooncake_connector.sglang.pools import (
    ModelShare,
    describe_aux,
    describe_kv,
    describe_states,
    host_kv_regions,
    index_array,
    kv_regions,
    state_regions,
)

if TYPE_CHECKING:
    from sglang.srt.disaggregation.base import KVArgs

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StateComponent:
    """A kind of state that a request has beside its KV.

    Attributes:
        pool: where it lies.
        tail: whether its indices are the sequence's last pages, not rows.
    """

    pool: Pool
    tail: bool


@dataclass(frozen=True, slots=True)
class Memory:
    """Where KV comes from or goes to.

    Attributes:
        engine: holds all the pools.
        kv: the KV cache.
        states: in the order of SGLang's ``state_types``.
        aux: the metadata rows.
    """

    engine: Engine
    kv: Pool
    states: Sequence[StateComponent]
    aux: Pool

    def last_parts(
        self, state_indices: Sequence[Any] | None, aux_index: int | None, tokens: int
    ) -> tuple[list[WindowedPart], list[RowPart]]:
        """What is shipped at the end of a request.

        Args:
            state_indices: by state component, its page or row numbers; None where there is none.
            aux_index: the metadata row, if there is one.
            tokens: how many the request has, rounded up to whole pages.

        Returns:
            The parts that are the sequence's last pages, and those that are rows.
        """
        tails: list[WindowedPart] = []
        rows: list[RowPart] = []
        for component, indices in zip(self.states, state_indices or (), strict=False):
            if indices is None:
                continue
            pages = index_array(indices)
            if len(pages) == 0:
                continue
            if component.tail:
                first_token = tokens - len(pages) * component.pool.page_size
                tails.append((component.pool, pages, first_token))
            else:
                rows.append((component.pool, pages))
        if aux_index is not None:
            rows.append((self.aux, [aux_index]))
        return tails, rows


def share_of_model(
    args: KVArgs, server_args: Any, *, latent: bool, prefill: bool, model_id: str | None
) -> ModelShare:
    """What this worker holds of the model."""
    parallel = get_parallel()
    model = ModelConfig.from_server_args(server_args)
    fingerprint = model_fingerprint(model.model_path, model.hf_config, model.dtype, model_id)
    if prefill:
        first_layer = args.prefill_start_layer
    else:
        first_layer, _ = get_pp_indices(model.num_hidden_layers, parallel.pp_rank, parallel.pp_size)
    device = get_device()
    return ModelShare(
        kv_heads=model.get_total_num_kv_heads(),
        tp_rank=parallel.attn_tp_rank,
        tp_size=parallel.attn_tp_size,
        first_layer=first_layer,
        stages=parallel.pp_size,
        latent=latent or bool(args.is_hybrid_mla_backend),
        fingerprint=f"{fingerprint}|{args.kv_cache_dtype_str}|{args.kv_layout}",
        device=None if device.device == "cpu" else device.gpu_id,
    )


def open_memory(
    args: KVArgs, share: ModelShare, config: ConnectorConfig, *, host: bool = False
) -> Memory:
    """Starts an engine and registers the pools with it.

    Args:
        args: what SGLang tells of this worker.
        share: what it holds of the model.
        config: the engine's options.
        host: whether KV and its paged state go to their copies in host memory.

    Raises:
        UnsupportedError: a region or state cannot be described to the engine or reached by it.
        ConfigError: the engine's address cannot be used.
    """
    regions = host_kv_regions(args) if host else kv_regions(args)
    assert regions is not None
    if host:
        share = replace(share, device=None)
    kv = describe_kv(args, regions, share)
    states = describe_states(args, state_regions(args, host=host), share)
    aux = describe_aux(args, share)
    engine = Engine(_engine_options(config, host))
    try:
        return Memory(
            engine,
            engine.register_pool(kv),
            [StateComponent(engine.register_pool(state.spec), state.tail) for state in states],
            engine.register_pool(aux),
        )
    except BaseException:
        engine.close()
        raise


def _engine_options(config: ConnectorConfig, host: bool) -> EngineConfig:
    """The worker's share of the options: with a fixed port, each worker takes the next one."""
    options = config.engine_options()
    if options.port == 0:
        return options
    parallel = get_parallel()
    worker = ((parallel.dp_rank or 0) * parallel.pp_size + parallel.pp_rank) * parallel.tp_size
    engine = 2 * (worker + parallel.tp_rank) + host
    return replace(options, port=options.port + engine)


def check_devices(args: KVArgs) -> None:
    """Checks ``--disaggregation-ib-device``.

    Raises:
        ConfigError: it is malformed, or names a device that this host does not have.
    """
    devices = parse_devices(args.ib_device, args.gpu_id)
    if devices:
        logger.warning(
            "--disaggregation-ib-device %s: this build has no RDMA path; KV goes over the paths "
            "that it has",
            ",".join(devices),
        )

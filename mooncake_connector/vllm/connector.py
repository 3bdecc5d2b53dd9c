# SPDX-License-Identifier: Apache-2.0
"""The class that vLLM loads. It only tells apart the two roles and passes calls on."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorRole,
    KVConnectorTransferResults,
    SupportsHMA,
)

from mooncake_connector.config import ConnectorConfig
from mooncake_connector.vllm.compat import cache_hit_source, require_supported_features
from mooncake_connector.vllm.metadata import StepMetadata, WorkerAddress
from mooncake_connector.vllm.scheduler import ConnectorScheduler
from mooncake_connector.vllm.stats import TransferMetrics, TransferStats
from mooncake_connector.vllm.worker import ConnectorWorker

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from vllm.config import VllmConfig
    from vllm.v1.core.kv_cache_manager import KVCacheBlocks
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.kv_cache_interface import KVCacheConfig
    from vllm.v1.outputs import KVConnectorOutput
    from vllm.v1.request import Request


class MooncakeConnector(KVConnectorBase_V1, SupportsHMA):
    """vLLM makes one in its scheduler and one in each worker; each has one of the two halves."""

    _cache_hit_source = cache_hit_source()

    def __init__(
        self, vllm_config: VllmConfig, role: KVConnectorRole, kv_cache_config: KVCacheConfig
    ) -> None:
        """Reads the options and refuses what is not supported.

        Raises:
            ConfigError: an option is unknown, malformed, or its address cannot be used.
            UnsupportedError: this model or this set-up was never tested.
        """
        super().__init__(vllm_config, role, kv_cache_config)
        options = vllm_config.kv_transfer_config.kv_connector_extra_config
        config = ConnectorConfig.from_extra_config(options)
        _log_beside_vllm(config.log_level)
        require_supported_features(vllm_config, kv_cache_config)
        self.scheduler: ConnectorScheduler | None = None
        self.worker: ConnectorWorker | None = None
        if role is KVConnectorRole.SCHEDULER:
            self.scheduler = ConnectorScheduler(vllm_config, kv_cache_config, config)
        else:
            self.worker = ConnectorWorker(vllm_config, kv_cache_config, config)

    def shutdown(self) -> None:
        """Ends threads and transfers, and frees ports. Both halves."""
        if self.scheduler is not None:
            self.scheduler.close()
        if self.worker is not None:
            self.worker.close()

    # Worker side

    def register_kv_caches(self, kv_caches: Mapping[str, torch.Tensor]) -> None:
        """Once, after the KV cache was allocated."""
        assert self.worker is not None
        self.worker.register_kv_caches(kv_caches)

    def get_handshake_metadata(self) -> WorkerAddress | None:
        """Once; vLLM hands it to ``set_xfer_handshake_metadata_pp_aware``."""
        assert self.worker is not None
        return self.worker.address()

    def handle_preemptions(self, kv_connector_metadata: StepMetadata) -> None:
        """Every step, before pages are overwritten."""
        assert self.worker is not None
        self.worker.handle_preemptions(kv_connector_metadata)

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        """Every step, after the forward pass was queued."""
        assert self.worker is not None
        self.worker.start(self._get_connector_metadata())

    def wait_for_layer_load(self, layer_name: str) -> None:
        """Nothing: requests run only when all their layers are there."""

    def save_kv_layer(
        self, layer_name: str, kv_layer: torch.Tensor, attn_metadata: Any, **kwargs: Any
    ) -> None:
        """Nothing: chunks are shipped as a whole, when their step is done."""

    def wait_for_save(self) -> None:
        """Every step, after all work that writes KV was queued. It does not wait."""
        assert self.worker is not None
        self.worker.save(self._get_connector_metadata())

    def get_transfer_results(self, finished_req_ids: set[str]) -> KVConnectorTransferResults:
        """Every step: what ended."""
        assert self.worker is not None
        return self.worker.results()

    def get_kv_connector_stats(self) -> TransferStats | None:
        """Every step, on both sides; the scheduler's half has none."""
        return None if self.worker is None else self.worker.take_stats()

    # Scheduler side

    def on_new_request(self, request: Request) -> None:
        """Once for each request, on arrival."""
        assert self.scheduler is not None
        self.scheduler.new_request(request)

    def get_num_new_matched_tokens(
        self, request: Request, num_computed_tokens: int
    ) -> tuple[int, bool]:
        """Possibly several times, until the request gets its pages."""
        assert self.scheduler is not None
        return self.scheduler.matched_tokens(request, num_computed_tokens)

    def get_loaded_kv_cache_group_ids(self, request: Request) -> tuple[int, ...]:
        """All groups: P ships the request's own pages, not only those that have a hash."""
        groups: tuple[int, ...] = self._kv_cache_config.transfer_group_ids
        return groups

    def update_state_after_alloc(
        self, request: Request, blocks: KVCacheBlocks, num_external_tokens: int
    ) -> None:
        """Once or twice for each request; the second call has no effect."""
        assert self.scheduler is not None
        self.scheduler.allocated(request, blocks, num_external_tokens)

    def build_connector_meta(self, scheduler_output: SchedulerOutput) -> StepMetadata:
        """Every step."""
        assert self.scheduler is not None
        return self.scheduler.build_metadata(scheduler_output)

    def update_connector_output(self, connector_output: KVConnectorOutput) -> None:
        """Every step in which the workers reported something."""
        assert self.scheduler is not None
        self.scheduler.fetched(connector_output.finished_recving or ())

    def request_finished_all_groups(
        self, request: Request, block_ids: tuple[list[int], ...]
    ) -> tuple[bool, dict[str, Any] | None]:
        """Once for each request, before its pages are given back."""
        assert self.scheduler is not None
        return self.scheduler.request_finished(request, block_ids)

    def request_finished(
        self, request: Request, block_ids: list[int]
    ) -> tuple[bool, dict[str, Any] | None]:
        """The same, from callers that know of one group only."""
        return self.request_finished_all_groups(request, (block_ids,))

    def has_pending_push_work(self) -> bool:
        """Whether steps must go on although no request is left."""
        assert self.scheduler is not None
        return self.scheduler.has_pending_work()

    def set_xfer_handshake_metadata_pp_aware(
        self, metadata: dict[tuple[int, int], WorkerAddress]
    ) -> None:
        """Once, with what all workers returned."""
        assert self.scheduler is not None
        self.scheduler.set_workers(metadata)

    # Metrics

    @classmethod
    def build_kv_connector_stats(cls, data: dict[str, Any] | None = None) -> TransferStats:
        """Turns what was sent between processes back into statistics."""
        return TransferStats(data or {})

    @classmethod
    def build_prom_metrics(cls, *arguments: Any) -> TransferMetrics:
        """Registers the Prometheus metrics, in the API server."""
        return TransferMetrics(*arguments)


def _log_beside_vllm(level: str) -> None:
    """Sends this package's log lines where vLLM's own go, with a level of their own."""
    logger = logging.getLogger("mooncake_connector")
    logger.setLevel(level.upper())
    logger.propagate = False
    logger.handlers = logging.getLogger("vllm").handlers

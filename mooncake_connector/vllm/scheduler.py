# SPDX-License-Identifier: Apache-2.0
"""The half of the connector that lives in vLLM's scheduler.

It owns no pages and moves no bytes: it watches requests come, get pages and go, and writes down
in each step what the workers have to do. Prefill and decode are two independent ledgers, so a
``kv_both`` server, or a request that is both fetched and handed on, needs no special case.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from mooncake_connector.bootstrap import Registration, bearer_tokens
from mooncake_connector.config import ConnectorConfig
from mooncake_connector.errors import ConfigError, UnsupportedError
from mooncake_connector.vllm.bootstrap import (
    BootstrapServer,
    RankEntry,
    WorkerAddresses,
    register,
)
from mooncake_connector.vllm.decode import DecodeLedger
from mooncake_connector.vllm.metadata import StepMetadata, WorkerAddress
from mooncake_connector.vllm.prefill import PrefillLedger

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.core.kv_cache_manager import KVCacheBlocks
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.kv_cache_interface import KVCacheConfig
    from vllm.v1.request import Request

logger = logging.getLogger(__name__)

# Hosts that cannot be told to a peer; they are compared with, not bound to.
_UNSPECIFIED_HOSTS = frozenset({"0.0.0.0", "::", ""})  # nosec B104


class ConnectorScheduler:
    """Translates the scheduler's callbacks into orders for the workers."""

    def __init__(self, vllm: VllmConfig, cache: KVCacheConfig, config: ConnectorConfig) -> None:
        """Starts P's bootstrap server where this server prefills.

        Raises:
            ConfigError: the bootstrap server's address cannot be used, or is an engine's.
        """
        transfer = vllm.kv_transfer_config
        self._config = config
        self._rank: int = vllm.parallel_config.data_parallel_index
        self._tokens = bearer_tokens(config.key_file)
        self._server: BootstrapServer | None = None
        self._registration: Registration | None = None
        self._prefill: PrefillLedger | None = None
        self._decode = DecodeLedger(cache, config) if transfer.is_kv_consumer else None
        if transfer.is_kv_producer:
            host, port = self._start_bootstrap(vllm)
            # Routers read the engine id once, so it must survive a restart of this server.
            self._engine_id = f"{host}:{port}/{self._rank}"
            self._prefill = PrefillLedger(cache, f"http://{host}:{port}", self._engine_id)

    def _start_bootstrap(self, vllm: VllmConfig) -> tuple[str, int]:
        """Returns the host and port under which routers and D reach the bootstrap server."""
        config = self._config
        listen = config.bootstrap_host or config.host
        advertised = config.bootstrap_advertise or config.advertise or listen
        port = config.bootstrap_port
        if config.port <= port < config.port + vllm.parallel_config.world_size and port != 0:
            raise ConfigError(
                f"bootstrap_port={port} is also where a worker's engine listens, since "
                f"port={config.port} is the first worker's; choose another"
            )
        if self._rank == 0:
            self._server = BootstrapServer(listen, port, self._tokens)
            port = self._server.port
        elif config.bootstrap_host is None and config.bootstrap_advertise is None:
            advertised = vllm.parallel_config.data_parallel_master_ip
        if advertised in _UNSPECIFIED_HOSTS:
            from vllm.utils.network_utils import get_ip

            advertised = get_ip()
        self._bootstrap = (advertised, port)
        return (f"[{advertised}]" if ":" in advertised else advertised), port

    def set_workers(self, workers: Mapping[tuple[int, int], WorkerAddress]) -> None:
        """Publishes where the workers listen, by (pipeline rank, tensor rank).

        Raises:
            UnsupportedError: these are another connector's addresses.
        """
        if self._prefill is None:
            return
        addresses: WorkerAddresses = {}
        for (pp, tp), worker in workers.items():
            if not isinstance(worker, WorkerAddress):
                raise UnsupportedError(
                    f"vLLM's MultiConnector hands on {type(worker).__name__} in place of this "
                    "connector's addresses: it takes those of the first child that has any. List "
                    "mooncake_connector before the connector that they belong to."
                )
            addresses.setdefault(tp, {})[pp] = worker.address
        entry = RankEntry(self._engine_id, addresses)
        if self._server is not None:
            self._server.publish(self._rank, entry)
        else:
            self._registration = register(*self._bootstrap, self._rank, entry, self._tokens)

    def new_request(self, request: Request) -> None:
        """A request has arrived. Its parameters are the client's, so nothing in them is trusted."""
        params = request.kv_transfer_params
        if not params:
            return
        if request.prompt_token_ids is None:
            logger.warning(
                "%s: prompts given as embeddings are not transferred", request.request_id
            )
            return
        # Decode first: prefill may shorten the prompt, from which the tag is made.
        for key, ledger in (
            ("do_remote_prefill", self._decode),
            ("do_remote_decode", self._prefill),
        ):
            if params.get(key) and ledger is None:
                logger.warning(
                    "%s: %s is ignored, because of this server's kv_role", request.request_id, key
                )
        if params.get("do_remote_prefill") and self._decode is not None:
            self._decode.new_request(request, params)
        if params.get("do_remote_decode") and self._prefill is not None:
            self._prefill.new_request(request, params)

    def matched_tokens(self, request: Request, computed: int) -> tuple[int, bool]:
        """How many tokens past the local prefix hit will be fetched, and whether in background."""
        tokens = self._decode.matched_tokens(request, computed) if self._decode else 0
        return tokens, tokens > 0

    def allocated(self, request: Request, blocks: KVCacheBlocks, external: int) -> None:
        """A request got its pages, ``external`` tokens of which are to be fetched."""
        if self._decode is not None:
            self._decode.allocated(request, blocks, external)

    def build_metadata(self, output: SchedulerOutput) -> StepMetadata:
        """The step's orders."""
        step = StepMetadata()
        if self._decode is not None:
            self._decode.write(step)
        if self._prefill is not None:
            self._prefill.write(step, output)
        return step

    def fetched(self, request_ids: Iterable[str]) -> None:
        """The workers reported these requests, as fetched or failed."""
        if self._decode is not None:
            self._decode.fetched(request_ids)

    def request_finished(
        self, request: Request, pages: tuple[list[int], ...]
    ) -> tuple[bool, dict[str, Any] | None]:
        """A request ended, in whatever way.

        Returns:
            whether its pages must be kept until the workers report it as sent, and what the
            client is told.
        """
        if self._decode is not None:
            self._decode.request_finished(request)
        if self._prefill is not None:
            return self._prefill.request_finished(request, pages)
        return False, None

    def has_pending_work(self) -> bool:
        """Whether orders wait for a lookup, so that steps must go on."""
        return self._decode is not None and self._decode.has_pending_work()

    def close(self) -> None:
        """Stops the threads and frees the port."""
        if self._decode is not None:
            self._decode.close()
        if self._registration is not None:
            self._registration.close()
        if self._server is not None:
            self._server.close()

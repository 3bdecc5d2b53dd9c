# SPDX-License-Identifier: Apache-2.0
"""One per scheduler process: the engine, its pools, and what senders and receivers share.

It inherits from SGLang's `CommonKVManager` what SGLang's scheduler uses beside the interface for
backends (ranks, the table of prefill servers, recomputation after retraction). What that class
does over its own sockets and HTTP is replaced: all of it goes through the engine's sessions.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

from sglang.srt.disaggregation.base.conn import KVTransferDestination
from sglang.srt.disaggregation.common.conn import CommonKVManager, PrefillServerInfo
from sglang.srt.disaggregation.pp_consensus_store import PPConsensusStore
from sglang.srt.disaggregation.utils import DisaggregationMode
from sglang.srt.runtime_context import get_disagg, get_parallel, get_serving
from sglang.srt.utils.network import NetworkAddress

from mooncake_connector.bootstrap import Registration, bearer_tokens
from mooncake_connector.config import ConnectorConfig
from mooncake_connector.engine import Engine
from mooncake_connector.errors import ConfigError, MooncakeConnectorError
from mooncake_connector.lookups import outcome
from mooncake_connector.sglang.bootstrap import PrefillRanks, RankId, Topology, tell_dp_rank
from mooncake_connector.sglang.compat import require_supported_features
from mooncake_connector.sglang.directory import Directory
from mooncake_connector.sglang.memory import Memory, check_devices, open_memory, share_of_model
from mooncake_connector.sglang.pools import host_kv_regions
from mooncake_connector.transfers import Completion, Transfer

if TYPE_CHECKING:
    from sglang.srt.disaggregation.base import KVArgs

_REGISTER_CURE: Final = "check --host and --disaggregation-bootstrap-port"
# Options of the other adapter, and what takes their place.
_SGLANGS_OPTIONS: Final = {
    "bootstrap_host": "--host",
    "bootstrap_port": "--disaggregation-bootstrap-port",
    "bootstrap_advertise": "the host that the router is given for the prefill server",
    "max_wait": "SGLANG_DISAGGREGATION_WAITING_TIMEOUT",
}
_MOST_PREFILL_SERVERS: Final = 1024
_LOOPBACK: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # nosec B104

logger = logging.getLogger(__name__)

Ended = Callable[[Completion], None]


def _refuse_foreign_options(config: ConnectorConfig) -> None:
    """Raises ConfigError for options that are set and mean nothing here."""
    defaults = ConnectorConfig()
    for name, cure in _SGLANGS_OPTIONS.items():
        if getattr(config, name) != getattr(defaults, name):
            raise ConfigError(
                f"MOONCAKE_CONNECTOR_{name.upper()} is for vLLM; with SGLang, set {cure} instead"
            )


class Manager(CommonKVManager):
    """SGLang's "KV manager" on our engine."""

    supports_role_switch = True
    supports_deferred_decode_kv_release = True
    reports_transfer_latency = True

    def __init__(
        self,
        args: KVArgs,
        disaggregation_mode: DisaggregationMode,
        server_args: Any,
        is_mla_backend: bool | None = False,
    ) -> None:
        """Starts the engine and, at P, registers with the bootstrap server in the background.

        Raises:
            UnsupportedError: something in this set-up cannot be carried, or was never tested.
            ConfigError: an option is wrong, or an address cannot be used.
        """
        require_supported_features(args)
        self.config: Final = ConnectorConfig.from_environment()
        _refuse_foreign_options(self.config)
        logging.getLogger("mooncake_connector").setLevel(self.config.log_level.upper())
        check_devices(args)
        share = share_of_model(
            args,
            server_args,
            latent=bool(is_mla_backend),
            prefill=disaggregation_mode == DisaggregationMode.PREFILL,
            model_id=self.config.model_id,
        )
        self._ended: dict[Transfer, Ended] = {}
        self._given_up: dict[int, list[Transfer]] = {}
        self._registration: Registration | None = None
        self._directory: Directory | None = None
        self._lookups: dict[str, Future[PrefillRanks]] = {}
        self._background = ThreadPoolExecutor(1, thread_name_prefix="mooncake-bootstrap")
        self._memories = {KVTransferDestination.DEVICE: open_memory(args, share, self.config)}
        if host_kv_regions(args) is not None:
            host = open_memory(args, share, self.config, host=True)
            self._memories[KVTransferDestination.HOST] = host
        self.supports_host_destination = KVTransferDestination.HOST in self._memories
        super().__init__(args, disaggregation_mode, server_args, is_mla_backend)
        # The base class listens to whoever connects; nothing of ours is sent there.
        self._zmq_ctx.destroy(linger=0)
        if isinstance(statuses := getattr(self, "request_status", None), PPConsensusStore):
            statuses.close()
        self.request_status: dict[int, int] = {}
        if disaggregation_mode == DisaggregationMode.DECODE:
            self._directory = Directory(self.config, args.page_size, self.kv_cache_dtype_str)
        logger.info("%s engine listens on %s", disaggregation_mode.value, self.engine.address)

    @property
    def engine(self) -> Engine:
        """The engine of the KV cache that the model reads."""
        return self.memory().engine

    def memory(self, destination: Any = KVTransferDestination.DEVICE) -> Memory:
        """The engine and pools of a destination."""
        return self._memories[destination]

    # Transfers: what senders and receivers share.

    def follow(self, transfer: Transfer, ended: Ended) -> None:
        """Calls `ended` from `collect` once the transfer has ended."""
        self._ended[transfer] = ended

    def collect(self) -> None:
        """Tells everybody whose transfer has ended. Never blocks."""
        for memory in self._memories.values():
            for completion in memory.engine.poll():
                ended = self._ended.pop(completion.transfer, None)
                if ended is not None:
                    ended(completion)

    def give_up(self, room: int, transfer: Transfer) -> None:
        """Cancels a recv whose pages must not be used before it has ended."""
        if transfer in self._ended:
            transfer.cancel()
            self._given_up.setdefault(room, []).append(transfer)

    def is_abort_release_safe(self, bootstrap_room: int, required_acks: int) -> bool:
        """Whether nothing can write to the pages of a given-up request any more."""
        self.collect()
        return not any(
            transfer in self._ended for transfer in self._given_up.get(bootstrap_room, ())
        )

    def clear_deferred_abort_state(self, bootstrap_room: int) -> None:
        """The pages of a given-up request have been released."""
        self._given_up.pop(bootstrap_room, None)

    def publish_status(self, room: int, status: int) -> None:
        """Tells the scheduler's other parts where a request stands."""
        self.request_status[room] = status

    def forget(self, room: int) -> None:
        """A request is over; what comes late for it is dropped."""
        self.request_status.pop(room, None)

    def failure_reason(self, room: int, reason: str | None) -> str | None:
        """Why a request failed: what the scheduler recorded, else `reason`."""
        with self.failure_lock:
            recorded: str | None = self.failure_records.pop(room, None)
        return recorded or reason

    # Prefill: registration.

    def register_to_bootstrap(self) -> None:
        """Registers this rank's engine. SGLang's base class calls it."""
        host: str = self.bootstrap_host
        if self.dist_init_addr:
            host = NetworkAddress.parse(self.dist_init_addr).resolved().host
        # What is listened on everywhere is reached on loopback.
        host = _LOOPBACK.get(host, host)
        attention_dp = self.system_dp_size == 1
        topology = Topology(
            tp_size=self.attn_tp_size,
            dp_size=self.attn_dp_size if attention_dp else self.system_dp_size,
            pp_size=self.pp_size,
            page_size=self.kv_args.page_size,
            kv_cache_dtype=self.kv_cache_dtype_str,
            follow_bootstrap_room=get_parallel().load_balance_method == "follow_bootstrap_room",
            http_port=get_serving().port,
        )
        dp_rank = self.attn_dp_rank if attention_dp else self.system_dp_rank
        rank = RankId(dp_rank, self.pp_rank, self.attn_tp_rank)
        entry = PrefillRanks(topology, {rank: self.engine.address}).to_json()
        self._bootstrap = (host, self.bootstrap_port)
        self._tokens = bearer_tokens(self.config.key_file)
        self._registration = Registration(*self._bootstrap, entry, self._tokens, _REGISTER_CURE)

    def register_dp_rank(self, room: int) -> None:
        """Tells the bootstrap server, in the background, which data-parallel rank has a request."""
        self._background.submit(
            tell_dp_rank, *self._bootstrap, room, self.attn_dp_rank, self._tokens
        )

    # Decode: where prefill servers are.

    def look_up(self, bootstrap_addr: str) -> Future[PrefillRanks]:
        """Starts looking up a prefill server; the answer is at most a second old."""
        assert self._directory is not None
        return self._directory.look_up(bootstrap_addr)

    def try_ensure_parallel_info(self, bootstrap_addr: str) -> bool:
        """Whether a prefill server is known; if not, looks it up in the background."""
        if bootstrap_addr in self.prefill_info_table:
            return True
        lookup = self._lookups.get(bootstrap_addr)
        if lookup is None:
            lookup = self._lookups[bootstrap_addr] = self.look_up(bootstrap_addr)
        if not lookup.done():
            return False
        del self._lookups[bootstrap_addr]
        ranks = outcome(lookup)
        if isinstance(ranks, MooncakeConnectorError):
            logger.warning("%s", ranks)
            return False
        return self.adopt(bootstrap_addr, ranks) is not None

    def adopt(self, bootstrap_addr: str, ranks: PrefillRanks) -> PrefillServerInfo | None:
        """Enters a prefill server into SGLang's table, with the ranks that concern this one.

        Returns:
            the entry; None, with a warning, where the ranks of both sides do not divide.
        """
        topology = ranks.topology
        assert topology is not None
        info = PrefillServerInfo(
            attn_tp_size=topology.tp_size,
            attn_cp_size=1,
            dp_size=topology.dp_size,
            pp_size=topology.pp_size,
            page_size=topology.page_size,
            kv_cache_dtype=topology.kv_cache_dtype,
            follow_bootstrap_room=topology.follow_bootstrap_room,
            prefill_http_port=topology.http_port,
        )
        try:
            self._resolve_rank_mapping(info)
        except AssertionError as error:
            logger.warning("the prefill server at %s does not fit: %s", bootstrap_addr, error)
            return None
        if len(self.prefill_info_table) >= _MOST_PREFILL_SERVERS:
            self.prefill_info_table.clear()
        self.prefill_info_table[bootstrap_addr] = info
        return info

    def forget_lookup(self, bootstrap_addr: str) -> None:
        """The next request asks a prefill server anew where its engines are."""
        assert self._directory is not None
        self._directory.forget(bootstrap_addr)

    def should_verify_kv_checksum(self, bootstrap_addr: str) -> bool:
        """P digests whole prompts; with a prefix of its own, D digests less."""
        return not get_disagg().disaggregation_decode_enable_radix_cache

    def teardown(self) -> None:
        """Ends all transfers and threads, before a switch of roles."""
        if self._registration is not None:
            self._registration.close()
        self._background.shutdown(wait=False, cancel_futures=True)
        if self._directory is not None:
            self._directory.close()
        for memory in self._memories.values():
            memory.engine.close()
        self._ended.clear()

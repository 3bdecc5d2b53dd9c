# SPDX-License-Identifier: Apache-2.0
"""D's view of its prefill servers: their ranks and addresses, looked up in the background."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

from mooncake_connector.bootstrap import parse_bootstrap_address
from mooncake_connector.config import ConnectorConfig
from mooncake_connector.errors import ConfigError, PeerUnreachable
from mooncake_connector.lookups import Lookups
from mooncake_connector.sglang.bootstrap import PrefillRanks, Topology, parse_ranks

_ALLOW = (
    "If it is one of your prefill servers, add it to MOONCAKE_CONNECTOR_ALLOWED_PEERS on this "
    "server."
)


class Directory:
    """Looks prefill servers up; its futures never raise anything but our errors."""

    def __init__(self, config: ConnectorConfig, page_size: int, kv_cache_dtype: str) -> None:
        """Remembers what must be equal at P.

        Args:
            config: the key, and which hosts may be contacted.
            page_size: this server's.
            kv_cache_dtype: this server's, as SGLang names it.
        """
        self._page_size = page_size
        self._kv_cache_dtype = kv_cache_dtype
        self._lookups = Lookups(config, parse_ranks, lambda ranks: bool(ranks.engines))

    def look_up(self, address: object) -> Future[PrefillRanks]:
        """Starts looking up a prefill server.

        Args:
            address: host:port of its bootstrap server as the client's request names it, unchecked.

        Returns:
            all ranks; or ConfigError for an address that is malformed, not allowed or of a server
            that does not fit, PeerUnreachable where nobody answers or ranks are missing.
        """
        return self._lookups.submit(lambda: self._look_up(address))

    def forget(self, address: str) -> None:
        """The engines of a prefill server were not found: the next lookup asks it anew."""
        self._lookups.forget(*parse_bootstrap_address(address))

    def close(self) -> None:
        """Stops the threads."""
        self._lookups.close()

    def _look_up(self, address: object) -> PrefillRanks:
        host, port = parse_bootstrap_address(address, "bootstrap_host")
        self._lookups.require_allowed(host, "bootstrap_host", _ALLOW)
        ranks = self._lookups.answer(host, port)
        where = f"the prefill server at {host}:{port}"
        if ranks.topology is None or not ranks.complete:
            expected: Any = "unknown" if ranks.topology is None else ranks.topology.ranks
            raise PeerUnreachable(
                f"{where} is still starting: {len(ranks.engines)} of its ranks have registered "
                f"(of {expected})"
            )
        self._require_fitting(where, ranks.topology)
        for engine in ranks.engines.values():
            origin = f"{host}:{port}'s answer"
            self._lookups.require_allowed(engine.rpartition(":")[0], origin, _ALLOW)
        return ranks

    def _require_fitting(self, where: str, topology: Topology) -> None:
        pairs = (
            ("--page-size", topology.page_size, self._page_size),
            ("--kv-cache-dtype", topology.kv_cache_dtype, self._kv_cache_dtype),
        )
        for option, there, here in pairs:
            if there != here:
                raise ConfigError(
                    f"{where} has {option} {there}, this decode server {here}; start both with "
                    "the same"
                )

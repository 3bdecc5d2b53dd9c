# SPDX-License-Identifier: Apache-2.0
"""Turns what a router named into addresses of P's workers, without holding up a step."""

from __future__ import annotations

from concurrent.futures import Future

from mooncake_connector.bootstrap import parse_bootstrap_address
from mooncake_connector.config import ConnectorConfig
from mooncake_connector.errors import PeerUnreachable
from mooncake_connector.lookups import Lookups
from mooncake_connector.vllm.bootstrap import RankEntry, parse_entries

_ALLOW = (
    "If it is one of your prefill servers, add it to allowed_peers in this server's "
    "kv_connector_extra_config."
)


class Resolver:
    """Looks up P's workers in the background; its futures never raise anything but our errors."""

    def __init__(self, config: ConnectorConfig) -> None:
        self._lookups = Lookups(config, parse_entries, _tells_workers)

    def resolve(self, bootstrap: object, engine_id: object) -> Future[list[str]]:
        """Starts looking up all workers of one data-parallel rank of P.

        Args:
            bootstrap: P's bootstrap address as the client's request names it, unchecked.
            engine_id: a hint which rank; ranks that it does not name are used only if there is
                no other.

        Returns:
            the workers' addresses; or ConfigError for an address that is malformed or not
            allowed, PeerUnreachable where nobody answers or no worker is told, ProtocolError for a
            wrong answer.
        """
        return self._lookups.submit(lambda: self._resolve(bootstrap, engine_id))

    def close(self) -> None:
        """Stops the threads; lookups that have not begun are cancelled."""
        self._lookups.close()

    def _resolve(self, bootstrap: object, engine_id: object) -> list[str]:
        host, port = parse_bootstrap_address(bootstrap)
        self._lookups.require_allowed(host, "remote_bootstrap_addr", _ALLOW)
        entry = _choose(self._lookups.answer(host, port), engine_id, f"{host}:{port}")
        addresses = [address for by_pp in entry.workers.values() for address in by_pp.values()]
        if not addresses:
            raise PeerUnreachable(
                f"the prefill server at {host}:{port} has no workers yet, or does not tell them: "
                "servers that have a key ask for the same one here (key_file)"
            )
        for address in addresses:
            origin = f"{host}:{port}'s answer"
            self._lookups.require_allowed(address.rpartition(":")[0], origin, _ALLOW)
        return addresses


def _tells_workers(entries: dict[int, RankEntry]) -> bool:
    return any(entry.workers for entry in entries.values())


def _choose(entries: dict[int, RankEntry], engine_id: object, where: str) -> RankEntry:
    for entry in entries.values():
        if entry.engine_id == engine_id:
            return entry
    if len(entries) == 1:
        return next(iter(entries.values()))
    known = ", ".join(entry.engine_id for entry in entries.values()) or "none"
    raise PeerUnreachable(
        f"the prefill server at {where} has no engine {engine_id!r}; it has: {known}"
    )

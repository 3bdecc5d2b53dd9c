# SPDX-License-Identifier: Apache-2.0
"""D's side of the bootstrap: turns what a router named into addresses of P's workers.

It runs on threads of its own: a bootstrap server that is slow or gone must not hold up a step.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from urllib.parse import urlsplit

from mooncake_connector.config import ConnectorConfig
from mooncake_connector.errors import ConfigError, MooncakeConnectorError, PeerUnreachable
from mooncake_connector.vllm.bootstrap import RankEntry, bearer_tokens, fetch, parse_entries

# Short enough that a restarted P (which takes longer than this to load a model) is seen at once,
# long enough that a burst of requests asks only once.
_CACHE_SECONDS = 1.0
_CACHE_ENTRIES = 256
_THREADS = 4


@dataclass(frozen=True, slots=True)
class _Cached:
    expires: float
    entries: dict[int, RankEntry]


class Resolver:
    """Looks up P's workers in the background; its futures never raise anything but our errors."""

    def __init__(self, config: ConnectorConfig) -> None:
        self._config = config
        self._tokens = bearer_tokens(config.key_file)
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="mooncake-resolve")
        self._lock = threading.Lock()
        self._cache: dict[tuple[str, int], _Cached] = {}

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
        return self._pool.submit(self._resolve, bootstrap, engine_id)

    def close(self) -> None:
        """Stops the threads; lookups that have not begun are cancelled."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _resolve(self, bootstrap: object, engine_id: object) -> list[str]:
        host, port = parse_bootstrap_address(bootstrap)
        self._require_allowed(host, "remote_bootstrap_addr")
        entry = _choose(self._entries(host, port), engine_id, f"{host}:{port}")
        addresses = [address for by_pp in entry.workers.values() for address in by_pp.values()]
        if not addresses:
            raise PeerUnreachable(
                f"the prefill server at {host}:{port} has no workers yet, or does not tell them: "
                "servers that have a key ask for the same one here (key_file)"
            )
        for address in addresses:
            self._require_allowed(address.rpartition(":")[0], f"{host}:{port}'s answer")
        return addresses

    def _require_allowed(self, host: str, origin: str) -> None:
        if not self._config.allows(host):
            raise ConfigError(
                f"{origin} names host {host!r}, which is not allowed. If it is one of your prefill "
                "servers, add it to allowed_peers in this server's kv_connector_extra_config."
            )

    def _entries(self, host: str, port: int) -> dict[int, RankEntry]:
        now = time.monotonic()
        with self._lock:
            cached = self._cache.get((host, port))
        if cached is not None and now < cached.expires:
            return cached.entries
        entries = self._query(host, port)
        with self._lock:
            if len(self._cache) >= _CACHE_ENTRIES:
                self._cache.clear()
            self._cache[host, port] = _Cached(now + _CACHE_SECONDS, entries)
        return entries

    def _query(self, host: str, port: int) -> dict[int, RankEntry]:
        """Asks with one token after the other until workers are told; P may know only one."""
        entries: dict[int, RankEntry] = {}
        for token in self._tokens or (None,):
            try:
                body = fetch(
                    "GET", host, port, "/query",
                    token=token, timeout=self._config.bootstrap_timeout,
                )  # fmt: skip
            except OSError as error:
                raise PeerUnreachable(
                    f"no answer from the prefill server's bootstrap at {host}:{port}: {error}"
                ) from None
            entries = parse_entries(body)
            if any(entry.workers for entry in entries.values()):
                break
        return entries


def parse_bootstrap_address(value: object) -> tuple[str, int]:
    """Splits "http://host:port" or "host:port".

    Raises:
        ConfigError: it is neither.
    """
    problem = ConfigError(f"remote_bootstrap_addr={value!r} is not http://host:port")
    if not isinstance(value, str):
        raise problem
    try:
        parts = urlsplit(value if "://" in value else f"http://{value}")
        port = parts.port
    except ValueError:
        raise problem from None
    if parts.scheme != "http" or not parts.hostname or port is None:
        raise problem
    return parts.hostname, port


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


def outcome(future: Future[list[str]]) -> list[str] | MooncakeConnectorError:
    """A finished lookup's addresses, or why there are none."""
    error = future.exception()
    if error is None:
        return future.result()
    if isinstance(error, MooncakeConnectorError):
        return error
    return PeerUnreachable(f"looking up the prefill server failed: {error!r}")

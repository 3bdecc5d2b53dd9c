# SPDX-License-Identifier: Apache-2.0
"""P's bootstrap server: tells routers P's engine ids, and D where P's workers listen.

``GET /query`` answers in the shape that ``vllm-router`` reads: data-parallel rank -> engine id
and the addresses of its workers by tensor- and pipeline-parallel rank::

    {"0": {"engine_id": "10.0.0.1:8998/0", "worker_addr": {"0": {"0": "10.0.0.1:41234"}}}}

The server of data-parallel rank 0 answers for all ranks; the others register with ``POST
/register``.

Where there is a key, workers' addresses are told and registrations taken only with its bearer
token. Routers send none; they get the engine ids, which are all they read.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from mooncake_connector.bootstrap import (
    JsonServer,
    Registration,
    Request,
    Route,
    parse_address,
    parse_text,
)
from mooncake_connector.errors import ProtocolError

_SERVER_CURE = (
    "Set bootstrap_host and bootstrap_port in kv_connector_extra_config; two prefill servers on "
    "one host need different ports."
)
_REGISTER_CURE = (
    "data-parallel rank 0 serves the bootstrap; check bootstrap_host and bootstrap_port."
)

WorkerAddresses = dict[int, dict[int, str]]
"""Tensor-parallel rank -> pipeline-parallel rank -> "host:port"."""


@dataclass(frozen=True, slots=True)
class RankEntry:
    """One data-parallel rank of P.

    Attributes:
        engine_id: stable across restarts, because routers read it once.
        workers: where its workers' engines listen.
    """

    engine_id: str
    workers: WorkerAddresses = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The entry as ``/query`` shows it to those who have a token."""
        return {"engine_id": self.engine_id, "worker_addr": self.workers}

    @classmethod
    def from_json(cls, value: Any) -> RankEntry:
        """Reads an entry that came from the network.

        Raises:
            ProtocolError: it does not have the expected shape.
        """
        try:
            workers = {
                int(tp): {int(pp): parse_address(address) for pp, address in by_pp.items()}
                for tp, by_pp in value["worker_addr"].items()
            }
            return cls(parse_text(value["engine_id"]), workers)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ProtocolError(f"malformed bootstrap entry: {error!r}") from None


def parse_entries(body: bytes) -> dict[int, RankEntry]:
    """Reads the answer of ``GET /query``.

    Raises:
        ProtocolError: it is not what a bootstrap server answers.
    """
    try:
        ranks = {int(rank): value for rank, value in json.loads(body).items()}
    except (ValueError, AttributeError) as error:
        raise ProtocolError(f"malformed bootstrap answer: {error!r}") from None
    return {rank: RankEntry.from_json(value) for rank, value in ranks.items()}


class BootstrapServer:
    """Serves ``/query`` and ``/register`` from threads of its own until closed."""

    def __init__(self, host: str, port: int, tokens: Sequence[str] = ()) -> None:
        """Binds at once, so that a port in use is an error at start.

        Args:
            host: where to listen.
            port: 0 lets the kernel choose.
            tokens: one of them opens everything; if there are none, everything is open.

        Raises:
            ConfigError: the address cannot be bound.
        """
        self._entries: dict[int, RankEntry] = {}
        self._lock = threading.Lock()
        routes = {
            ("GET", "/query"): Route(self._query, public=True),
            ("POST", "/register"): Route(self._register),
        }
        self._server = JsonServer(host, port, routes, tokens, _SERVER_CURE)
        self.port = self._server.port

    def publish(self, rank: int, entry: RankEntry) -> None:
        """Makes a data-parallel rank known; a restarted rank replaces its former self."""
        with self._lock:
            self._entries[rank] = entry

    def query(self, authorization: str | None = None) -> dict[str, Any]:
        """What ``GET /query`` answers: without a token, engine ids only."""
        return self._entries_for(self._server.admits(authorization))

    def close(self) -> None:
        """Stops serving and frees the port."""
        self._server.close()

    def _entries_for(self, admitted: bool) -> dict[str, Any]:
        with self._lock:
            entries = dict(self._entries)
        if not admitted:
            entries = {rank: RankEntry(entry.engine_id) for rank, entry in entries.items()}
        return {str(rank): entry.to_json() for rank, entry in entries.items()}

    def _query(self, request: Request) -> Any:
        return self._entries_for(request.admitted)

    def _register(self, request: Request) -> Any:
        for rank, entry in parse_entries(request.body).items():
            self.publish(rank, entry)
        return {"status": "ok"}


def register(
    host: str, port: int, rank: int, entry: RankEntry, tokens: Sequence[str] = ()
) -> Registration:
    """Registers one data-parallel rank with rank 0's bootstrap server, in the background."""
    return Registration(host, port, {str(rank): entry.to_json()}, tokens, _REGISTER_CURE)

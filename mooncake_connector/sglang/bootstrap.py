# SPDX-License-Identifier: Apache-2.0
"""P's bootstrap server for SGLang: P's ranks, and where the engine of each listens.

Every scheduler process of P registers its rank with ``POST /register``; ``GET /query`` tells all
of them to decode servers. Routers and clients read none of it, so where there is a key both need
its bearer token. Without a key only processes of this host may register.

With data parallelism P may choose a request's rank itself. It then tells ``POST
/register_dp_rank``, and D's scheduler asks ``POST /query_dp_ranks``; SGLang sends that question
without a token, and the answer tells nothing that is not in the question but a small number.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sglang.srt.disaggregation.base.conn import BaseKVBootstrapServer

from mooncake_connector.bootstrap import (
    JsonServer,
    Request,
    Route,
    bearer_tokens,
    fetch,
    parse_address,
    parse_text,
)
from mooncake_connector.config import ConnectorConfig
from mooncake_connector.errors import (
    AuthenticationFailed,
    MooncakeConnectorError,
    ProtocolError,
)

logger = logging.getLogger(__name__)

_CURE = (
    "Choose another --disaggregation-bootstrap-port; two prefill servers on one host need "
    "different ones."
)
_MAX_RANKS = 4096
# A request is looked up within seconds of its registration; what nobody asks for is forgotten.
_ROOM_SECONDS = 120.0
_MAX_ROOMS = 1 << 16
_TELL_TIMEOUT = 5.0


@dataclass(frozen=True, slots=True)
class Topology:
    """How P is divided into ranks, and what must be equal at D.

    Attributes:
        tp_size: ranks that share the heads of attention.
        dp_size: data-parallel ranks.
        pp_size: pipeline stages.
        page_size: tokens of a page.
        kv_cache_dtype: as SGLang names it.
        follow_bootstrap_room: whether a request's data-parallel rank follows from its room.
        http_port: of P's API.
    """

    tp_size: int
    dp_size: int
    pp_size: int
    page_size: int
    kv_cache_dtype: str
    follow_bootstrap_room: bool
    http_port: int

    @property
    def ranks(self) -> int:
        """How many register."""
        return self.tp_size * self.dp_size * self.pp_size

    @classmethod
    def from_json(cls, value: Any) -> Topology:
        """Reads what came from the network.

        Raises:
            KeyError, TypeError, ValueError: it does not have the expected shape.
        """
        topology = cls(
            tp_size=int(value["tp_size"]),
            dp_size=int(value["dp_size"]),
            pp_size=int(value["pp_size"]),
            page_size=int(value["page_size"]),
            kv_cache_dtype=parse_text(value["kv_cache_dtype"]),
            follow_bootstrap_room=bool(value["follow_bootstrap_room"]),
            http_port=int(value["http_port"]),
        )
        if not 0 < topology.ranks <= _MAX_RANKS:
            raise ValueError(f"{topology.ranks} ranks")
        return topology


@dataclass(frozen=True, slots=True, order=True)
class RankId:
    """A rank's place: data-parallel rank, pipeline stage, rank among those that share the heads."""

    dp: int
    pp: int
    tp: int

    def __str__(self) -> str:
        return f"{self.dp}/{self.pp}/{self.tp}"

    @classmethod
    def parse(cls, text: Any) -> RankId:
        """Reads what `__str__` wrote.

        Raises:
            TypeError, ValueError: it did not.
        """
        dp, pp, tp = (int(number) for number in parse_text(text).split("/"))
        return cls(dp, pp, tp)


@dataclass(frozen=True, slots=True)
class PrefillRanks:
    """What a bootstrap server knows.

    Attributes:
        topology: None until a rank has registered.
        engines: where each rank's engine listens.
    """

    topology: Topology | None
    engines: Mapping[RankId, str]

    @property
    def complete(self) -> bool:
        """Whether all ranks have registered."""
        return self.topology is not None and len(self.engines) >= self.topology.ranks

    def to_json(self) -> dict[str, Any]:
        """As ``/query`` answers and ``/register`` takes it."""
        return {
            "topology": None if self.topology is None else asdict(self.topology),
            "engines": {str(rank): address for rank, address in self.engines.items()},
        }


def parse_ranks(body: bytes) -> PrefillRanks:
    """Reads an answer or a registration.

    Raises:
        ProtocolError: it is neither.
    """
    try:
        value = json.loads(body)
        topology = value["topology"]
        engines = {RankId.parse(rank): parse_address(at) for rank, at in value["engines"].items()}
        return PrefillRanks(None if topology is None else Topology.from_json(topology), engines)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ProtocolError(f"malformed bootstrap message: {error!r}") from None


def tell_dp_rank(host: str, port: int, room: int, dp_rank: int, tokens: Sequence[str]) -> None:
    """Tells P's bootstrap server which data-parallel rank has a request. Blocks.

    What goes wrong is logged: D then fails the request for want of an answer.
    """
    body = json.dumps({"bootstrap_room": room, "dp_rank": dp_rank}).encode()
    problem: Exception | None = None
    for token in tokens or (None,):
        try:
            fetch(
                "POST", host, port, "/register_dp_rank",
                body=body, token=token, timeout=_TELL_TIMEOUT,
            )  # fmt: skip
            return
        except (OSError, MooncakeConnectorError) as error:
            problem = error
    logger.error("cannot tell %s:%d the rank of request %d: %s", host, port, room, problem)


class BootstrapServer(BaseKVBootstrapServer):
    """Answers from threads of its own until closed.

    It is no `CommonKVBootstrapServer`: SGLang would put its own registry in the place of one, which
    knows no key.
    """

    def __init__(self, host: str, port: int) -> None:
        """Binds at once, so that a port in use is an error at start.

        Args:
            host: SGLang's ``--host``.
            port: SGLang's ``--disaggregation-bootstrap-port``; 0 lets the kernel choose.

        Raises:
            ConfigError: the address cannot be bound, or an environment variable is wrong.
        """
        tokens = bearer_tokens(ConnectorConfig.from_environment().key_file)
        self._guarded = bool(tokens)
        self._lock = threading.Lock()
        self._ranks = PrefillRanks(None, {})
        self._rooms: dict[int, tuple[int, float]] = {}
        routes = {
            ("GET", "/health"): Route(lambda _: {"status": "ok"}, public=True),
            ("GET", "/query"): Route(self._query),
            ("POST", "/register"): Route(self._register),
            ("POST", "/register_dp_rank"): Route(self._register_room),
            ("POST", "/query_dp_ranks"): Route(self._query_rooms, public=True),
        }
        self._server = JsonServer(host, port, routes, tokens, _CURE)
        self.port = self._server.port

    def close(self) -> None:
        """Stops serving and frees the port."""
        self._server.close()

    def _query(self, _: Request) -> Any:
        with self._lock:
            return self._ranks.to_json()

    def _register(self, request: Request) -> Any:
        self._require_trusted(request)
        given = parse_ranks(request.body)
        if given.topology is None:
            raise ProtocolError("malformed bootstrap message: a registration has a topology")
        with self._lock:
            known = self._ranks.engines if given.topology == self._ranks.topology else {}
            self._ranks = PrefillRanks(given.topology, {**known, **given.engines})
        return {"status": "ok"}

    def _register_room(self, request: Request) -> Any:
        self._require_trusted(request)
        try:
            value = json.loads(request.body)
            room, rank = int(value["bootstrap_room"]), int(value["dp_rank"])
        except (KeyError, TypeError, ValueError) as error:
            raise ProtocolError(f"malformed bootstrap message: {error!r}") from None
        now = time.monotonic()
        with self._lock:
            if len(self._rooms) >= _MAX_ROOMS:
                self._rooms = {room: entry for room, entry in self._rooms.items() if now < entry[1]}
            if len(self._rooms) < _MAX_ROOMS:
                self._rooms[room] = (rank, now + _ROOM_SECONDS)
        return {"status": "ok"}

    def _query_rooms(self, request: Request) -> Any:
        try:
            rooms = [int(room) for room in json.loads(request.body)["bootstrap_rooms"]]
        except (KeyError, TypeError, ValueError) as error:
            raise ProtocolError(f"malformed bootstrap message: {error!r}") from None
        with self._lock:
            return {str(room): self._rooms[room][0] for room in rooms if room in self._rooms}

    def _require_trusted(self, request: Request) -> None:
        if not self._guarded and not request.local:
            raise AuthenticationFailed(
                "without a key only processes of this host register; give all servers one "
                "(MOONCAKE_CONNECTOR_KEY_FILE)"
            )

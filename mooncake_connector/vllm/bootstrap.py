# SPDX-License-Identifier: Apache-2.0
"""P's bootstrap server: tells routers P's engine ids, and D where P's workers listen.

``GET /query`` answers in the shape that ``vllm-router`` reads: data-parallel rank -> engine id
and the addresses of its workers by tensor- and pipeline-parallel rank::

    {"0": {"engine_id": "10.0.0.1:8998/0", "worker_addr": {"0": {"0": "10.0.0.1:41234"}}}}

The server of data-parallel rank 0 answers for all ranks; the others register with ``POST
/register``. Requests are few and small, so the standard library's server with a bounded number of
threads is enough.

Where there is a key, workers' addresses are told and registrations taken only with a bearer token
(RFC 6750) that is derived from it. Routers send none; they get the engine ids, which are all they
read.
"""

from __future__ import annotations

import hmac
import http.client
import json
import logging
import socket
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from mooncake_connector.errors import (
    AuthenticationFailed,
    ConfigError,
    MooncakeConnectorError,
    ProtocolError,
)
from mooncake_connector.keys import load_keys

logger = logging.getLogger(__name__)

MAX_BODY_BYTES = 256 << 10
"""Bounds a registration and an answer: a thousand workers need about 64 KiB."""
_MAX_CONNECTIONS = 32
_CONNECTION_TIMEOUT = 5.0
_REGISTER_ATTEMPTS = 60
_REGISTER_INTERVAL = 1.0

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
                int(tp): {int(pp): _address(address) for pp, address in by_pp.items()}
                for tp, by_pp in value["worker_addr"].items()
            }
            return cls(_text(value["engine_id"]), workers)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ProtocolError(f"malformed bootstrap entry: {error!r}") from None


def bearer_tokens(key_file: str | None) -> tuple[str, ...]:
    """What each of this server's keys makes of a token; none without a key.

    Raises:
        ConfigError: the key cannot be used.
    """
    return tuple(key.derive("bootstrap").hex() for key in load_keys(key_file))


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
        self._tokens = [token.encode() for token in tokens]
        self._entries: dict[int, RankEntry] = {}
        self._lock = threading.Lock()
        try:
            self._server = _Server(host, port, self)
        except OSError as error:
            raise ConfigError(
                f"cannot serve P's bootstrap on {host}:{port}: {error.strerror or error}. Set "
                "bootstrap_host and bootstrap_port in kv_connector_extra_config; two prefill "
                "servers on one host need different ports."
            ) from None
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="mooncake-bootstrap", daemon=True
        )
        self._thread.start()
        logger.info("P's bootstrap server listens on %s:%d", host, self.port)

    def publish(self, rank: int, entry: RankEntry) -> None:
        """Makes a data-parallel rank known; a restarted rank replaces its former self."""
        with self._lock:
            self._entries[rank] = entry

    def admits(self, authorization: str | None) -> bool:
        """Whether a request with this ``Authorization`` header may have everything."""
        if not self._tokens:
            return True
        scheme, _, given = (authorization or "").partition(" ")
        # All are compared, so that the time does not tell which one was nearly right.
        found = [hmac.compare_digest(token, given.strip().encode()) for token in self._tokens]
        return scheme.lower() == "bearer" and any(found)

    def query(self, authorization: str | None = None) -> dict[str, Any]:
        """What ``GET /query`` answers: without a token, engine ids only."""
        with self._lock:
            entries = dict(self._entries)
        if not self.admits(authorization):
            entries = {rank: RankEntry(entry.engine_id) for rank, entry in entries.items()}
        return {str(rank): entry.to_json() for rank, entry in entries.items()}

    def close(self) -> None:
        """Stops serving and frees the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # A socket in TIME_WAIT must not keep a restarted P from its port.
    allow_reuse_address = True

    def __init__(self, host: str, port: int, bootstrap: BootstrapServer) -> None:
        self.bootstrap = bootstrap
        self._slots = threading.BoundedSemaphore(_MAX_CONNECTIONS)
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._slots.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        logger.debug("bootstrap: connection of %s failed", client_address, exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = _CONNECTION_TIMEOUT
    server_version = "mooncake-connector"
    sys_version = ""

    def do_GET(self) -> None:
        if self.path != "/query":
            self._answer(404, {"error": "unknown path; there is GET /query"})
            return
        self._answer(200, self.server.bootstrap.query(self.headers.get("Authorization")))

    def do_POST(self) -> None:
        if self.path != "/register":
            self._answer(404, {"error": "unknown path; there is POST /register"})
            return
        if not self.server.bootstrap.admits(self.headers.get("Authorization")):
            self._answer(401, {"error": "registering needs the key's bearer token"})
            return
        try:
            length = int(self.headers.get("Content-Length", ""))
        except ValueError:
            self._answer(411, {"error": "Content-Length is missing or not a number"})
            return
        if not 0 <= length <= MAX_BODY_BYTES:
            self._answer(413, {"error": f"the body may have at most {MAX_BODY_BYTES} bytes"})
            return
        try:
            entries = parse_entries(self.rfile.read(length))
        except MooncakeConnectorError as error:
            self._answer(400, {"error": str(error)})
            return
        for rank, entry in entries.items():
            self.server.bootstrap.publish(rank, entry)
        self._answer(200, {"status": "ok"})

    def _answer(self, status: int, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        logger.debug("bootstrap: %s " + format, self.address_string(), *arguments)


class Registration:
    """Registers one data-parallel rank with rank 0's bootstrap server, in the background.

    Rank 0 may start later, so it is tried again for a minute.
    """

    def __init__(
        self, host: str, port: int, rank: int, entry: RankEntry, tokens: Sequence[str] = ()
    ) -> None:
        self._stop = threading.Event()
        body = json.dumps({str(rank): entry.to_json()}).encode()
        self._thread = threading.Thread(
            target=self._run, args=(host, port, body, tokens), name="mooncake-register", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stops trying."""
        self._stop.set()
        self._thread.join()

    def _run(self, host: str, port: int, body: bytes, tokens: Sequence[str]) -> None:
        problem = ""
        for attempt in range(_REGISTER_ATTEMPTS):
            token = tokens[attempt % len(tokens)] if tokens else None
            try:
                fetch(
                    "POST", host, port, "/register",
                    body=body, token=token, timeout=_CONNECTION_TIMEOUT,
                )  # fmt: skip
                return
            except (OSError, MooncakeConnectorError) as error:
                problem = str(error)
            if self._stop.wait(_REGISTER_INTERVAL):
                return
        logger.error(
            "cannot register with the bootstrap server of data-parallel rank 0 at %s:%d: %s. "
            "Decode servers will not find this rank; check bootstrap_host and bootstrap_port.",
            host,
            port,
            problem,
        )


def fetch(
    method: str,
    host: str,
    port: int,
    path: str,
    *,
    timeout: float,
    body: bytes | None = None,
    token: str | None = None,
) -> bytes:
    """One HTTP request to a bootstrap server; redirects are not followed.

    Returns:
        the answer's body, at most MAX_BODY_BYTES of it.

    Raises:
        OSError: no connection, or no answer in time.
        AuthenticationFailed: the token is not one of the server's.
        ProtocolError: the answer is not HTTP, not successful or too long.
    """
    connection = http.client.HTTPConnection(host, port, timeout=timeout)
    try:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        content = answer.read(MAX_BODY_BYTES + 1)
    except http.client.HTTPException as error:
        raise ProtocolError(f"{host}:{port} does not speak HTTP: {error!r}") from None
    finally:
        connection.close()
    if answer.status == http.client.UNAUTHORIZED:
        raise AuthenticationFailed(
            f"{host}:{port} asks for another key; give all servers the same one (key_file)"
        )
    if answer.status != http.client.OK:
        raise ProtocolError(f"{host}:{port}{path} answered {answer.status} {answer.reason}")
    if len(content) > MAX_BODY_BYTES:
        raise ProtocolError(f"{host}:{port}{path} answered more than {MAX_BODY_BYTES} bytes")
    return content


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not text")
    return value


def _address(value: Any) -> str:
    text = _text(value)
    host, separator, port = text.rpartition(":")
    if not (separator and host and port.isdecimal()):
        raise ValueError(f"{value!r} is not host:port")
    return text

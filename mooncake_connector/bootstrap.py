# SPDX-License-Identifier: Apache-2.0
"""What both adapters need of a bootstrap: a small JSON server at P, and D's lookups.

Requests are few and small, so the standard library's server with a bounded number of threads is
enough. Where there is a key, a bearer token (RFC 6750) that is derived from it opens what is not
public. Lookups run on threads of their own: a bootstrap server that is slow or gone must not hold
up a step of the serving engine.
"""

from __future__ import annotations

import hmac
import http.client
import ipaddress
import json
import logging
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from mooncake_connector.errors import (
    AuthenticationFailed,
    ConfigError,
    MooncakeConnectorError,
    ProtocolError,
)
from mooncake_connector.keys import load_keys

logger = logging.getLogger(__name__)

MAX_BODY_BYTES = 256 << 10
"""Bounds a request and an answer: a thousand workers need about 64 KiB."""
_MAX_CONNECTIONS = 32
_CONNECTION_TIMEOUT = 5.0
_REGISTER_ATTEMPTS = 60
_REGISTER_INTERVAL = 1.0


def bearer_tokens(key_file: str | None) -> tuple[str, ...]:
    """What each of this server's keys makes of a token; none without a key.

    Raises:
        ConfigError: the key cannot be used.
    """
    return tuple(key.derive("bootstrap").hex() for key in load_keys(key_file))


def parse_bootstrap_address(value: object, name: str = "remote_bootstrap_addr") -> tuple[str, int]:
    """Splits "http://host:port" or "host:port".

    Args:
        value: what a client's request says.
        name: what it is called there.

    Raises:
        ConfigError: it is neither.
    """
    problem = ConfigError(f"{name}={value!r} is not http://host:port")
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


def parse_text(value: Any) -> str:
    """A text that came from the network.

    Raises:
        TypeError: it is something else.
    """
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not text")
    return value


def parse_address(value: Any) -> str:
    """A "host:port" that came from the network.

    Raises:
        TypeError, ValueError: it is something else.
    """
    text = parse_text(value)
    host, separator, port = text.rpartition(":")
    if not (separator and host and port.isdecimal()):
        raise ValueError(f"{value!r} is not host:port")
    return text


@dataclass(frozen=True, slots=True)
class Request:
    """What a handler needs to know.

    Attributes:
        query: the URL's query.
        body: of a POST.
        admitted: whether it came with a token, or none is needed.
        local: whether it came from this host's loopback interface.
    """

    query: Mapping[str, str]
    body: bytes
    admitted: bool
    local: bool


@dataclass(frozen=True, slots=True)
class Route:
    """How a method and path are answered.

    Attributes:
        handler: returns what is sent as JSON; an error of this package becomes status 400.
        public: whether it is answered without a token too.
    """

    handler: Callable[[Request], Any]
    public: bool = False


class JsonServer:
    """Serves routes from threads of its own until closed."""

    def __init__(
        self,
        host: str,
        port: int,
        routes: Mapping[tuple[str, str], Route],
        tokens: Sequence[str],
        cure: str,
    ) -> None:
        """Binds at once, so that a port in use is an error at start.

        Args:
            host: where to listen.
            port: 0 lets the kernel choose.
            routes: by method ("GET", "POST") and path.
            tokens: one of them opens everything; if there are none, everything is open.
            cure: what to do about an address that cannot be bound.

        Raises:
            ConfigError: the address cannot be bound.
        """
        self.routes = routes
        self._tokens = [token.encode() for token in tokens]
        try:
            self._server = _Server(host, port, self)
        except OSError as error:
            raise ConfigError(
                f"cannot serve P's bootstrap on {host}:{port}: {error.strerror or error}. {cure}"
            ) from None
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="mooncake-bootstrap", daemon=True
        )
        self._thread.start()
        logger.info("P's bootstrap server listens on %s:%d", host, self.port)

    def admits(self, authorization: str | None) -> bool:
        """Whether a request with this ``Authorization`` header may have everything."""
        if not self._tokens:
            return True
        scheme, _, given = (authorization or "").partition(" ")
        # All are compared, so that the time does not tell which one was nearly right.
        found = [hmac.compare_digest(token, given.strip().encode()) for token in self._tokens]
        return scheme.lower() == "bearer" and any(found)

    def close(self) -> None:
        """Stops serving and frees the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # A socket in TIME_WAIT must not keep a restarted P from its port.
    allow_reuse_address = True

    def __init__(self, host: str, port: int, service: JsonServer) -> None:
        self.service = service
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
        self._serve("GET")

    def do_POST(self) -> None:
        self._serve("POST")

    def _serve(self, method: str) -> None:
        path, _, query = self.path.partition("?")
        route = self.server.service.routes.get((method, path))
        if route is None:
            known = ", ".join(" ".join(pair) for pair in self.server.service.routes)
            self._answer(404, {"error": f"unknown path; there is {known}"})
            return
        admitted = self.server.service.admits(self.headers.get("Authorization"))
        if not admitted and not route.public:
            self._answer(401, {"error": "this needs the key's bearer token"})
            return
        body = b""
        if method == "POST":
            try:
                length = int(self.headers.get("Content-Length", ""))
            except ValueError:
                self._answer(411, {"error": "Content-Length is missing or not a number"})
                return
            if not 0 <= length <= MAX_BODY_BYTES:
                self._answer(413, {"error": f"the body may have at most {MAX_BODY_BYTES} bytes"})
                return
            body = self.rfile.read(length)
        local = ipaddress.ip_address(self.client_address[0]).is_loopback
        try:
            value = route.handler(Request(dict(parse_qsl(query)), body, admitted, local))
        except MooncakeConnectorError as error:
            self._answer(400, {"error": str(error)})
            return
        self._answer(200, value)

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
    """Registers a rank with P's bootstrap server, in the background.

    That server may start later, so it is tried again for a minute.
    """

    def __init__(self, host: str, port: int, entry: Any, tokens: Sequence[str], cure: str) -> None:
        """Starts to try.

        Args:
            host: of the bootstrap server.
            port: of the bootstrap server.
            entry: what it is told, as JSON.
            tokens: tried in turn: it may know only one of two keys.
            cure: what to do when it never answers.
        """
        self._stop = threading.Event()
        self._cure = cure
        body = json.dumps(entry).encode()
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
            "cannot register with the bootstrap server at %s:%d: %s. Decode servers will not find "
            "this rank; %s",
            host,
            port,
            problem,
            self._cure,
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

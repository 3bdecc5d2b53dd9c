# SPDX-License-Identifier: Apache-2.0
"""P's bootstrap server and D's lookups, over real sockets."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from mooncake_connector.bootstrap import (
    MAX_BODY_BYTES,
    bearer_tokens,
    fetch,
    parse_bootstrap_address,
)
from mooncake_connector.config import ConnectorConfig
from mooncake_connector.errors import (
    AuthenticationFailed,
    ConfigError,
    MooncakeConnectorError,
    PeerUnreachable,
    ProtocolError,
)
from mooncake_connector.lookups import outcome
from mooncake_connector.vllm.bootstrap import BootstrapServer, RankEntry, register
from mooncake_connector.vllm.resolver import Resolver

ENTRY = RankEntry("p:8998/0", {0: {0: "127.0.0.1:41"}, 1: {0: "127.0.0.1:42"}})


@pytest.fixture
def server() -> Iterator[BootstrapServer]:
    one = BootstrapServer("127.0.0.1", 0)
    yield one
    one.close()


@pytest.fixture
def resolver() -> Iterator[Resolver]:
    one = Resolver(ConnectorConfig(bootstrap_timeout=2.0))
    yield one
    one.close()


def ask(server: BootstrapServer, method: str, path: str, body: bytes | None = None) -> bytes:
    return fetch(method, "127.0.0.1", server.port, path, body=body, timeout=5)


def resolve(resolver: Resolver, address: object, engine_id: object = None) -> Any:
    future = resolver.resolve(address, engine_id)
    future.exception(10)
    return outcome(future)


def test_query_has_the_shape_that_routers_read(server: BootstrapServer) -> None:
    assert json.loads(ask(server, "GET", "/query")) == {}
    server.publish(0, ENTRY)
    assert json.loads(ask(server, "GET", "/query")) == {
        "0": {
            "engine_id": "p:8998/0",
            "worker_addr": {"0": {"0": "127.0.0.1:41"}, "1": {"0": "127.0.0.1:42"}},
        }
    }


def test_other_ranks_register(server: BootstrapServer, resolver: Resolver) -> None:
    server.publish(0, ENTRY)
    second = RankEntry("p:8998/1", {0: {0: "127.0.0.1:51"}})
    registration = register("127.0.0.1", server.port, 1, second)
    registration._thread.join(10)
    address = f"http://127.0.0.1:{server.port}"
    assert resolve(resolver, address, "p:8998/1") == ["127.0.0.1:51"]
    assert resolve(resolver, address, "p:8998/0") == ["127.0.0.1:41", "127.0.0.1:42"]
    registration.close()


FIRST, SECOND = "1" * 64, "2" * 64


def keyed(folder: Path, *keys: str) -> str:
    """A key file."""
    path = folder / f"{len(list(folder.iterdir()))}.key"
    path.touch(mode=0o600)
    path.write_text("\n".join(keys))
    return str(path)


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[BootstrapServer]:
    one = BootstrapServer("127.0.0.1", 0, bearer_tokens(keyed(tmp_path, FIRST)))
    one.publish(0, ENTRY)
    yield one
    one.close()


@pytest.mark.parametrize("token", [None, "", "x" * 64, FIRST])
def test_without_the_keys_token_only_engine_ids_are_told(
    guarded: BootstrapServer, token: str | None
) -> None:
    body = fetch("GET", "127.0.0.1", guarded.port, "/query", timeout=5, token=token)
    assert json.loads(body) == {"0": {"engine_id": "p:8998/0", "worker_addr": {}}}


@pytest.mark.parametrize("token", [None, "x" * 64])
def test_without_the_keys_token_nobody_registers(
    guarded: BootstrapServer, token: str | None
) -> None:
    body = json.dumps({"0": RankEntry("evil", {0: {0: "127.0.0.1:6"}}).to_json()}).encode()
    with pytest.raises(AuthenticationFailed, match="key_file"):
        fetch("POST", "127.0.0.1", guarded.port, "/register", timeout=5, body=body, token=token)
    assert guarded.query()["0"]["engine_id"] == "p:8998/0"


@pytest.mark.parametrize("keys", [[FIRST], [SECOND, FIRST], [FIRST, SECOND]])
def test_with_the_key_workers_are_found_and_registered(
    guarded: BootstrapServer, tmp_path: Path, keys: list[str]
) -> None:
    key_file = keyed(tmp_path, *keys)
    second = RankEntry("p:8998/1", {0: {0: "127.0.0.1:51"}})
    registration = register("127.0.0.1", guarded.port, 1, second, bearer_tokens(key_file))
    registration._thread.join(10)
    registration.close()
    resolver = Resolver(ConnectorConfig(bootstrap_timeout=2.0, key_file=key_file))
    address = f"http://127.0.0.1:{guarded.port}"
    assert resolve(resolver, address, "p:8998/1") == ["127.0.0.1:51"]
    resolver.close()


@pytest.mark.parametrize("keys", [[], [SECOND]])
def test_with_another_key_the_lookup_says_why_it_fails(
    guarded: BootstrapServer, tmp_path: Path, keys: list[str]
) -> None:
    key_file = keyed(tmp_path, *keys) if keys else None
    resolver = Resolver(ConnectorConfig(bootstrap_timeout=2.0, key_file=key_file))
    found = resolve(resolver, f"http://127.0.0.1:{guarded.port}", "p:8998/0")
    assert isinstance(found, PeerUnreachable)
    assert "key_file" in str(found)
    resolver.close()


def test_a_restarted_rank_replaces_its_former_self(server: BootstrapServer) -> None:
    server.publish(0, ENTRY)
    server.publish(0, RankEntry("p:8998/0", {0: {0: "127.0.0.1:99"}}))
    entry = json.loads(ask(server, "GET", "/query"))["0"]
    assert entry["worker_addr"] == {"0": {"0": "127.0.0.1:99"}}


@pytest.mark.parametrize(
    "body",
    [
        b"no json",
        b"[]",
        b'{"x": {}}',
        b'{"0": {"engine_id": 5, "worker_addr": {}}}',
        b'{"0": {"engine_id": "e", "worker_addr": {"0": {"0": "no port"}}}}',
        b'{"0": {"engine_id": "e", "worker_addr": []}}',
    ],
)
def test_malformed_registrations_are_refused(server: BootstrapServer, body: bytes) -> None:
    with pytest.raises(ProtocolError, match="400"):
        ask(server, "POST", "/register", body)
    assert server.query() == {}


def test_large_bodies_are_refused_unread(server: BootstrapServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
        length = MAX_BODY_BYTES + 1
        connection.sendall(f"POST /register HTTP/1.0\r\nContent-Length: {length}\r\n\r\n".encode())
        assert b" 413 " in connection.recv(1000)


@pytest.mark.parametrize("header", ["", "Content-Length: -1\r\n", "Content-Length: many\r\n"])
def test_bodies_without_a_length_are_refused(server: BootstrapServer, header: str) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
        connection.sendall(f"POST /register HTTP/1.0\r\n{header}\r\n".encode())
        answer = connection.recv(1000)
    assert b" 411 " in answer or b" 413 " in answer


def test_unknown_paths(server: BootstrapServer) -> None:
    for method, path in (("GET", "/"), ("POST", "/query"), ("GET", "/register")):
        with pytest.raises(ProtocolError, match="404"):
            ask(server, method, path, b"" if method == "POST" else None)


def test_it_listens_on_the_configured_host_only(server: BootstrapServer) -> None:
    with pytest.raises(OSError):
        fetch("GET", "127.0.0.2", server.port, "/query", timeout=5)


def test_a_port_in_use_is_an_error_at_start(server: BootstrapServer) -> None:
    with pytest.raises(ConfigError, match=r"cannot serve.*bootstrap_port"):
        BootstrapServer("127.0.0.1", server.port)


def test_idle_connections_do_not_exhaust_it(server: BootstrapServer) -> None:
    """More connections than it serves at once: the rest is closed, and it answers again."""
    idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(50)]
    for connection in idle:
        connection.close()
    for _ in range(50):
        try:
            assert ask(server, "GET", "/query") == b"{}"
            return
        except (OSError, ProtocolError):
            threading.Event().wait(0.1)
    pytest.fail("the server does not answer any more")


def test_bootstrap_addresses() -> None:
    assert parse_bootstrap_address("http://p:8998") == ("p", 8998)
    assert parse_bootstrap_address("10.0.0.1:8998") == ("10.0.0.1", 8998)
    assert parse_bootstrap_address("http://[::1]:8998/") == ("::1", 8998)
    for bad in (None, 5, "", "p", "http://p", "https://p:1", "file:///etc/passwd", "p:notaport"):
        with pytest.raises(ConfigError, match="is not http://host:port"):
            parse_bootstrap_address(bad)


def test_the_only_rank_is_used_whatever_the_hint(
    server: BootstrapServer, resolver: Resolver
) -> None:
    server.publish(0, ENTRY)
    address = f"127.0.0.1:{server.port}"
    assert resolve(resolver, address, "outdated") == ["127.0.0.1:41", "127.0.0.1:42"]


def test_an_unknown_engine_among_several(server: BootstrapServer, resolver: Resolver) -> None:
    server.publish(0, ENTRY)
    server.publish(1, RankEntry("p:8998/1", {0: {0: "127.0.0.1:51"}}))
    problem = resolve(resolver, f"127.0.0.1:{server.port}", "nobody")
    assert isinstance(problem, PeerUnreachable)
    assert "p:8998/0, p:8998/1" in str(problem)


def test_nobody_listens(resolver: Resolver) -> None:
    problem = resolve(resolver, "127.0.0.1:9")
    assert isinstance(problem, PeerUnreachable)


def test_hosts_that_are_not_allowed_are_never_contacted(resolver: Resolver) -> None:
    problem = resolve(resolver, "http://192.0.2.1:8998")
    assert isinstance(problem, ConfigError)
    assert "allowed_peers" in str(problem)


def test_workers_on_hosts_that_are_not_allowed(server: BootstrapServer, resolver: Resolver) -> None:
    server.publish(0, RankEntry("p", {0: {0: "192.0.2.1:41"}}))
    problem = resolve(resolver, f"127.0.0.1:{server.port}")
    assert isinstance(problem, ConfigError)
    assert "192.0.2.1" in str(problem)


@pytest.mark.parametrize("kind", ["redirect", "endless", "silent", "no http"])
def test_misbehaving_servers(resolver: Resolver, kind: str) -> None:
    with Misbehaving(kind) as port:
        assert isinstance(resolve(resolver, f"127.0.0.1:{port}"), MooncakeConnectorError)


class Misbehaving:
    """A server that does what a bootstrap server never does."""

    def __init__(self, kind: str) -> None:
        class Handler(BaseHTTPRequestHandler):
            timeout = 5

            def do_GET(self) -> None:
                if kind == "redirect":
                    self.send_response(302)
                    self.send_header("Location", "http://127.0.0.1:9/")
                    self.end_headers()
                elif kind == "endless":
                    self.send_response(200)
                    self.end_headers()
                    self.wfile.write(b"{" * (MAX_BODY_BYTES + 10))
                elif kind == "no http":
                    self.wfile.write(b"what?\r\n\r\n")
                else:
                    threading.Event().wait(4)

            def log_message(self, *_: object) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)

    def __enter__(self) -> int:
        self._thread.start()
        return int(self._server.server_address[1])

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

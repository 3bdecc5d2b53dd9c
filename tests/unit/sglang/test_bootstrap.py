# SPDX-License-Identifier: Apache-2.0
"""P's bootstrap server for SGLang and D's lookups, over real sockets."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from sglang.srt.disaggregation.base.conn import KVPoll
from sglang.srt.disaggregation.common.conn import CommonKVReceiver

from mooncake_connector.bootstrap import Registration, fetch
from mooncake_connector.config import ConnectorConfig
from mooncake_connector.errors import (
    AuthenticationFailed,
    ConfigError,
    MooncakeConnectorError,
    PeerUnreachable,
    ProtocolError,
)
from mooncake_connector.keys import Key
from mooncake_connector.lookups import outcome
from mooncake_connector.sglang.bootstrap import (
    BootstrapServer,
    PrefillRanks,
    RankId,
    Topology,
    parse_ranks,
    tell_dp_rank,
)
from mooncake_connector.sglang.directory import Directory

KEY = "k" * 64
TOKEN = Key(KEY.encode()).derive("bootstrap").hex()
TOPOLOGY = Topology(
    tp_size=2,
    dp_size=1,
    pp_size=1,
    page_size=16,
    kv_cache_dtype="auto",
    follow_bootstrap_room=True,
    http_port=30000,
)
FIRST = PrefillRanks(TOPOLOGY, {RankId(0, 0, 0): "127.0.0.1:41"})
SECOND = PrefillRanks(TOPOLOGY, {RankId(0, 0, 1): "127.0.0.1:42"})


@pytest.fixture
def directory() -> Iterator[Directory]:
    one = Directory(ConnectorConfig(bootstrap_timeout=2.0), 16, "auto")
    yield one
    one.close()


@pytest.fixture
def guarded(monkeypatch: pytest.MonkeyPatch) -> Iterator[BootstrapServer]:
    monkeypatch.setenv("MOONCAKE_CONNECTOR_KEY", KEY)
    server = BootstrapServer("127.0.0.1", 0)
    yield server
    server.close()


def register(server: BootstrapServer, ranks: PrefillRanks, tokens: tuple[str, ...] = ()) -> None:
    registration = Registration("127.0.0.1", server.port, ranks.to_json(), tokens, "")
    registration._thread.join(10)
    registration.close()


def post(server: BootstrapServer, path: str, body: bytes, token: str | None = None) -> bytes:
    return fetch("POST", "127.0.0.1", server.port, path, body=body, token=token, timeout=5)


def look_up(directory: Directory, address: str) -> Any:
    future = directory.look_up(address)
    future.exception(10)
    return outcome(future)


def test_all_ranks_register_and_are_found(bootstrap: BootstrapServer, directory: Directory) -> None:
    address = f"127.0.0.1:{bootstrap.port}"
    assert isinstance(look_up(directory, address), PeerUnreachable)
    register(bootstrap, FIRST)
    directory.forget(address)
    partly = look_up(directory, address)
    assert isinstance(partly, PeerUnreachable)
    assert "1 of its ranks have registered (of 2)" in str(partly)
    register(bootstrap, SECOND)
    directory.forget(address)
    assert look_up(directory, address) == PrefillRanks(
        TOPOLOGY, {**FIRST.engines, **SECOND.engines}
    )


def test_a_restarted_server_with_another_shape_replaces_its_former_self(
    bootstrap: BootstrapServer,
) -> None:
    register(bootstrap, FIRST)
    register(bootstrap, SECOND)
    single = Topology(1, 1, 1, 16, "auto", True, 30000)
    register(bootstrap, PrefillRanks(single, {RankId(0, 0, 0): "127.0.0.1:99"}))
    body = fetch("GET", "127.0.0.1", bootstrap.port, "/query", timeout=5)
    assert parse_ranks(body).engines == {RankId(0, 0, 0): "127.0.0.1:99"}


@pytest.mark.parametrize(
    ("page_size", "dtype", "option"), [(1, "auto", "--page-size"), (16, "fp8", "--kv-cache-dtype")]
)
def test_servers_that_do_not_fit(
    bootstrap: BootstrapServer, page_size: int, dtype: str, option: str
) -> None:
    register(bootstrap, FIRST)
    register(bootstrap, SECOND)
    directory = Directory(ConnectorConfig(), page_size, dtype)
    problem = look_up(directory, f"127.0.0.1:{bootstrap.port}")
    directory.close()
    assert isinstance(problem, ConfigError)
    assert option in str(problem)


@pytest.mark.parametrize("address", ["192.0.2.1:8998", "nonsense", "http://x:1/y:2", "x:99999", ""])
def test_addresses_of_clients_are_checked(directory: Directory, address: str) -> None:
    assert isinstance(look_up(directory, address), ConfigError)


def test_engines_on_hosts_that_are_not_allowed(
    bootstrap: BootstrapServer, directory: Directory
) -> None:
    register(bootstrap, FIRST)
    register(bootstrap, PrefillRanks(TOPOLOGY, {RankId(0, 0, 1): "192.0.2.1:42"}))
    problem = look_up(directory, f"127.0.0.1:{bootstrap.port}")
    assert isinstance(problem, ConfigError)
    assert "192.0.2.1" in str(problem)


@pytest.mark.parametrize(
    "body",
    [
        b"no json",
        b"[]",
        b"{}",
        b'{"topology": null, "engines": {}}',
        b'{"topology": {}, "engines": {}}',
        json.dumps({**FIRST.to_json(), "engines": {"0/0": "127.0.0.1:1"}}).encode(),
        json.dumps({**FIRST.to_json(), "engines": {"0/0/0": "no port"}}).encode(),
        json.dumps({**FIRST.to_json(), "engines": ["127.0.0.1:1"]}).encode(),
    ],
)
def test_malformed_registrations_are_refused(bootstrap: BootstrapServer, body: bytes) -> None:
    with pytest.raises(ProtocolError, match="400"):
        post(bootstrap, "/register", body)
    assert json.loads(fetch("GET", "127.0.0.1", bootstrap.port, "/query", timeout=5)) == {
        "topology": None,
        "engines": {},
    }


def test_impossible_topologies_are_refused() -> None:
    for size in (0, -1, 5000):
        told = {**FIRST.to_json(), "topology": {**FIRST.to_json()["topology"], "tp_size": size}}
        with pytest.raises(ProtocolError, match="ranks"):
            parse_ranks(json.dumps(told).encode())


@pytest.mark.parametrize("token", [None, "x" * 64, KEY])
def test_without_the_keys_token_nothing_is_told_or_taken(
    guarded: BootstrapServer, token: str | None
) -> None:
    register(guarded, FIRST, (TOKEN,))
    with pytest.raises(AuthenticationFailed):
        fetch("GET", "127.0.0.1", guarded.port, "/query", timeout=5, token=token)
    evil = PrefillRanks(TOPOLOGY, {RankId(0, 0, 0): "127.0.0.1:6"})
    for path in ("/register", "/register_dp_rank"):
        with pytest.raises(AuthenticationFailed):
            post(guarded, path, json.dumps(evil.to_json()).encode(), token)
    body = fetch("GET", "127.0.0.1", guarded.port, "/query", timeout=5, token=TOKEN)
    assert parse_ranks(body).engines == FIRST.engines


def test_with_the_key_a_decode_server_finds_the_ranks(
    guarded: BootstrapServer,
) -> None:
    for ranks in (FIRST, SECOND):
        register(guarded, ranks, (TOKEN,))
    directory = Directory(ConnectorConfig(), 16, "auto")  # the key is in the environment
    assert look_up(directory, f"127.0.0.1:{guarded.port}").complete
    directory.close()


def test_with_another_key_the_lookup_says_so(
    guarded: BootstrapServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOONCAKE_CONNECTOR_KEY", "another " * 8)
    monkeypatch.setenv("MOONCAKE_CONNECTOR_KEY", "o" * 64)
    directory = Directory(ConnectorConfig(), 16, "auto")
    problem = look_up(directory, f"127.0.0.1:{guarded.port}")
    directory.close()
    assert isinstance(problem, MooncakeConnectorError)
    assert "key" in str(problem)


def test_data_parallel_ranks_of_requests_as_sglang_asks_for_them(
    guarded: BootstrapServer,
) -> None:
    tell_dp_rank("127.0.0.1", guarded.port, 77, 3, ("wrong", TOKEN))
    address = f"127.0.0.1:{guarded.port}"
    assert CommonKVReceiver.query_prefill_dp_ranks(address, [77, 78]) == {"77": 3}


def test_lookups_never_hold_the_scheduler_up(start: Any, bootstrap: BootstrapServer) -> None:
    """Whatever P's bootstrap does: here it accepts and says nothing."""
    import socket

    decode = start("decode")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        slowest = 0.0
        with decode.published():
            receiver = decode.receiver(silent.getsockname()[1], 5)
            for _ in range(50):
                began = time.thread_time()
                assert not decode.manager.try_ensure_parallel_info(address)
                receiver.poll()
                slowest = max(slowest, time.thread_time() - began)
        assert receiver.poll() == KVPoll.Bootstrapping
    assert slowest < 1.0  # of processor time; the lookup's own limit is 5 s

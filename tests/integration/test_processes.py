# SPDX-License-Identifier: Apache-2.0
"""Engines in real processes that die, freeze, come back, or may not read each other."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

import pytest
from support.figures import Figure
from support.node import Node, eventually
from support.pages import Shape
from support.processes import NodeProcess

import mooncake_connector
from mooncake_connector.errors import ConfigError, UnsupportedError

SHAPE = Shape(page_count=256, page_size=32, dtype="float64")  # 64 KiB a page
TOKENS = 32 * 200
WAYS = ["shm", "cma", "tcp"]


@pytest.fixture
def process() -> Iterator[NodeProcess]:
    """A process for senders, of this test alone."""
    with NodeProcess() as other:
        yield other


def _node(make: Any, path: str | None, **config: Any) -> Any:
    node = make(**({"paths": (path,)} if path else {}), **config)
    node.add_pool("kv", SHAPE)
    return node


def _moves(sender: Any, receiver: Any, tag: bytes, address: str | None = None) -> None:
    """The pair moves bytes, and the right ones."""
    receiver.clear("kv")
    sender.offer(tag, [("kv", range(3))], 80)
    recv = receiver.recv(address or sender.address(), tag, [("kv", range(3, 6))], tokens=80)
    ended = receiver.wait(recv)
    assert ended.ok, ended
    assert receiver.difference("kv", (tag, range(3, 6), 0, range(80))) is None


@pytest.mark.parametrize("path", WAYS)
def test_a_killed_sender_fails_its_receivers_and_nobody_else(
    path: str, process: NodeProcess
) -> None:
    victim = _node(process.node, path)
    bystander, receiver = _node(Node, path), _node(Node, path)
    _moves(victim, receiver, b"before")
    victim.send(b"never")
    recv = receiver.recv(victim.address(), b"never", [("kv", range(9))], tokens=9 * 32)
    time.sleep(0.1)
    killed = time.monotonic()
    process.kill()
    ended = receiver.wait(recv, 10)
    assert ended.error in ("PeerLost", "PeerRestarted"), ended
    assert time.monotonic() - killed < 2 + 3  # the limit, and room for a busy machine
    _moves(bystander, receiver, b"after")
    assert receiver.leftovers() is None
    receiver.close()
    bystander.close()


@pytest.mark.parametrize("path", WAYS)
def test_a_killed_receiver_gives_the_pages_back(path: str, process: NodeProcess) -> None:
    sender, victim = _node(Node, path), _node(process.node, path)
    send = sender.send(b"request")
    victim.recv(sender.address(), b"request", [("kv", range(9))], tokens=9 * 32)
    while not sender.matched(send):
        time.sleep(0.005)
    process.kill()
    eventually(lambda: not sender.peers())  # else it finishes, for a receiver that it believes in
    sender.finish(send)
    assert sender.wait(send, 10).error in ("PeerLost", "PeerRestarted")
    assert sender.leftovers() is None
    sender.close()


def test_a_frozen_peer_is_lost_within_the_limit(process: NodeProcess) -> None:
    frozen, receiver = _node(process.node, "tcp"), _node(Node, "tcp")
    frozen.send(b"request")
    recv = receiver.recv(frozen.address(), b"request", [("kv", range(9))], tokens=9 * 32)
    while not any(peer["state"] == "ready" for peer in receiver.peers()):
        time.sleep(0.005)
    process.freeze()
    stopped = time.monotonic()
    ended = receiver.wait(recv, 20)
    process.thaw()
    assert ended.error == "PeerLost", ended
    assert "no sign of life" in ended.message
    assert 1 < time.monotonic() - stopped < 2 + 3
    receiver.close()


def test_a_peer_that_comes_back_on_its_port_is_used_again() -> None:
    receiver = _node(Node, None)
    with NodeProcess() as first:
        sender = _node(first.node, None)
        address = sender.address()
        _moves(sender, receiver, b"first")
        first.kill()
    with NodeProcess() as second:
        port = int(address.rpartition(":")[2])
        sender = _node(second.node, None, port=port)
        assert sender.address() == address
        deadline = time.monotonic() + 10
        while receiver.peers() and time.monotonic() < deadline:
            time.sleep(0.005)  # until the old session's end was noticed
        _moves(sender, receiver, b"second")
    receiver.close()


@pytest.mark.parametrize("path", WAYS)
def test_a_thousand_requests_in_flight(path: str, process: NodeProcess, figure: Figure) -> None:
    """All are asked for before the first is there; a small one gets through all the same."""
    shape = Shape(page_count=4096, page_size=16, heads=range(1))
    sender, receiver = process.node(paths=(path,)), Node(paths=(path,))
    for node in (sender, receiver):
        node.add_pool("kv", shape)
    pages = [range(4 * index, 4 * index + 4) for index in range(1000)]
    tags = [b"request %d" % index for index in range(1000)]
    begun = time.monotonic()
    recvs = [
        receiver.recv(sender.address(), tag, [("kv", mine)], tokens=64)
        for tag, mine in zip(tags, pages, strict=True)
    ]
    assert receiver.stats()["open_recvs"] == 1000
    sender.offer(b"small", [("kv", range(4000, 4004))], 64)
    small = receiver.recv(sender.address(), b"small", [("kv", range(4000, 4004))], tokens=64)
    assert receiver.wait(small).ok
    for tag, mine in zip(tags, pages, strict=True):
        sender.offer(tag, [("kv", mine)], 64)
    assert all(receiver.wait(recv).ok for recv in recvs)
    seconds = time.monotonic() - begun
    spans = [(tag, mine, 0, range(64)) for tag, mine in zip(tags, pages, strict=True)]
    small_one = (b"small", range(4000, 4004), 0, range(64))
    assert receiver.difference("kv", *spans, small_one) is None
    assert receiver.leftovers() is None
    assert sender.leftovers() is None
    figure(f"1,000 requests in flight ({path}): all end well", f"1000 of 1000 in {seconds:.1f} s")
    receiver.close()


@pytest.mark.parametrize("path", WAYS)
def test_many_outstanding_requests_of_small_spans(
    path: str, process: NodeProcess, figure: Figure
) -> None:
    shape = Shape(
        axes="LBNHC",
        layers=range(1),
        heads=range(1),
        elements=256,
        page_size=1,
        page_count=65536,
        dtype="float32",
        kind="mla",
    )
    sender = process.node(paths=(path,))
    receiver = Node(paths=(path,))
    for node in (sender, receiver):
        node.add_pool("kv", shape)
    pages = [list(range(index, 65536, 64)) for index in range(64)]
    resident = []
    descriptors = []
    for turn in range(10):
        tags = [b"%d %d" % (turn, index) for index in range(64)]
        for tag, mine in zip(tags, pages, strict=True):
            sender.offer(tag, [("kv", mine)], 1024)
        recvs = [
            receiver.recv(sender.address(), tag, [("kv", mine)], tokens=1024)
            for tag, mine in zip(tags, pages, strict=True)
        ]
        assert all(receiver.wait(recv).ok for recv in recvs)
        assert receiver.leftovers() is None
        resident.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        descriptors.append(len(os.listdir("/proc/self/fd")))
    spans = [(tag, mine, 0, range(1024)) for tag, mine in zip(tags, pages, strict=True)]
    assert receiver.difference("kv", *spans) is None
    assert resident[-1] - resident[2] < 8 << 10  # KiB
    assert descriptors[-1] <= descriptors[0]
    grown = (resident[-1] - resident[2]) / 1024
    figure(f"64 x 1,024 spans outstanding, ten times ({path}): all end well", "640 of 640")
    figure(f"memory and descriptors grown meanwhile ({path})", f"{grown:.1f} MiB, 0")
    receiver.close()


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("setpriv") is None,
    reason="another user's process cannot be started without root and setpriv",
)
def test_where_the_kernel_forbids_cma_the_ring_is_used_and_said_so() -> None:
    wrapper = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all"]
    probe = [*wrapper, sys.executable, "-c", "import mooncake_connector"]
    if subprocess.run(probe, capture_output=True, cwd="/", check=False).returncode != 0:
        pytest.skip("user 65534 cannot read this Python environment")
    receiver = _node(Node, None)
    with NodeProcess(*wrapper) as other:
        # This process is root and can read that one; the other way round the kernel refuses.
        reader = _node(other.node, None)
        send = receiver.offer(b"request", [("kv", range(200))], TOKENS)
        recv = reader.recv(receiver.address(), b"request", [("kv", range(200))], tokens=TOKENS)
        ended = reader.wait(recv)
        assert ended.ok and ended.path == "shm"
        assert receiver.wait(send).ok
        (peer,) = reader.peers()
        assert any("no cma" in note for note in peer["notes"]), peer
        strict = _node(other.node, "cma", strict=True)
        refused = strict.recv(receiver.address(), b"x", [("kv", range(3))], tokens=80)
        ended = strict.wait(refused)
        assert ended.error == "UnsupportedError"
        assert "cma" in ended.message
        strict = _node(other.node, None, strict=True)
        refused = strict.recv(receiver.address(), b"x", [("kv", range(3))], tokens=80)
        ended = strict.wait(refused)
        assert ended.error == "UnsupportedError"
        assert "strict refuses the ring" in ended.message
    receiver.close()


def test_an_idle_pair_uses_no_cpu() -> None:
    sender, receiver = _node(Node, None), _node(Node, None)
    _moves(sender, receiver, b"request")
    before = time.process_time()
    time.sleep(2)
    assert time.process_time() - before < 0.02
    sender.close()
    receiver.close()


def test_closing_returns_every_thread_and_descriptor() -> None:
    def counts() -> tuple[int, int]:
        return len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd"))

    base = counts()
    for path in (None, *WAYS):
        sender, receiver = _node(Node, path), _node(Node, path)
        _moves(sender, receiver, b"request")
        sender.close()
        receiver.close()
        assert counts()[0] == base[0]
    del sender, receiver
    assert counts() == base


def test_ipv6() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as error:
        pytest.skip(f"no IPv6 loopback here: {error}")
    sender, receiver = _node(Node, "tcp", host="::1"), _node(Node, "tcp")
    assert sender.address().startswith("[::1]:")
    _moves(sender, receiver, b"request")
    sender.close()
    receiver.close()


def test_a_port_in_use_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"127.0.0.1:{port}.*in use"):
            Node(port=port)


def test_other_than_loopback_is_refused_without_a_key() -> None:
    with pytest.raises(ConfigError, match="loopback"):
        Node(host="0.0.0.0", advertise="127.0.0.1")


def test_nobody_listens() -> None:
    receiver = _node(Node, None)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    recv = receiver.recv(f"127.0.0.1:{port}", b"x", [("kv", range(3))], tokens=80)
    ended = receiver.wait(recv)
    assert ended.error == "PeerUnreachable"
    assert f"127.0.0.1:{port}" in ended.message
    receiver.close()


def test_somebody_else_listens() -> None:
    class Quiet(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Quiet)
    Thread(target=server.serve_forever, daemon=True).start()
    receiver = _node(Node, None)
    recv = receiver.recv(
        f"127.0.0.1:{server.server_port}", b"x", [("kv", range(3))], tokens=80, deadline=20
    )
    ended = receiver.wait(recv, 30)
    assert ended.error in ("PeerLost", "PeerUnreachable", "ProtocolError"), ended
    assert "no engine" in ended.message or "another server" in ended.message
    server.shutdown()
    server.server_close()
    receiver.close()


def test_an_http_client_is_turned_away() -> None:
    sender, receiver = _node(Node, None), _node(Node, None)
    host, _, port = sender.address().rpartition(":")
    with socket.create_connection((host, int(port)), 5) as stranger:
        stranger.sendall(b"GET /query HTTP/1.1\r\nHost: x\r\n\r\n")
        stranger.settimeout(10)
        with contextlib.suppress(ConnectionResetError):
            assert stranger.recv(64) == b""
    _moves(sender, receiver, b"request")
    sender.close()
    receiver.close()


def test_an_engine_does_not_exist_in_a_forked_child() -> None:
    engine = mooncake_connector.Engine()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            engine.send(b"x")
        except UnsupportedError as error:
            code = 0 if "fork" in str(error) else 2
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    engine.close()

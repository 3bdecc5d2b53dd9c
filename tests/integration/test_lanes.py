# SPDX-License-Identifier: Apache-2.0
"""Connections that want to be lanes of a session which is not theirs."""

from __future__ import annotations

import contextlib
import secrets
import select
import socket
import struct
from collections.abc import Iterator
from threading import Lock, Thread
from typing import Any

import pytest
from support.node import Node, eventually
from support.pages import Shape

SHAPE = Shape(page_count=64, page_size=16, dtype="float64")
TOKEN_BYTES = 16
MOST_LANES = 64
HELLO = 1  # its type number


class Eavesdropper:
    """Passes on what is said to one engine, and reads that engine's link token out of its HELLO."""

    def __init__(self, address: str) -> None:
        host, port = address.rsplit(":", 1)
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.tokens: list[bytes] = []
        self._sockets: list[socket.socket] = []
        self._lock = Lock()
        self._thread = Thread(target=self._accept, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        self._thread.join()

    def cut(self) -> None:
        """Ends all connections."""
        with self._lock:
            for one in self._sockets:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._target)
                with self._lock:
                    self._sockets += [near, far]
                Thread(target=self._pass_on, args=(near, far), daemon=True).start()

    def _pass_on(self, near: socket.socket, far: socket.socket) -> None:
        said = b""
        with near, far, contextlib.suppress(OSError):
            while True:
                ready, _, _ = select.select([near, far], [], [])
                for one in ready:
                    data = one.recv(1 << 16)
                    if not data:
                        return
                    if one is far and not self.tokens:
                        said += data
                        self._read_hello(said)
                    (near if one is far else far).sendall(data)

    def _read_hello(self, said: bytes) -> None:
        at = 0
        while at + 5 <= len(said):
            length = int.from_bytes(said[at : at + 4], "little")
            body = said[at + 6 : at + 4 + length]
            if said[at + 4] == HELLO and len(body) == length - 2:
                where = 2 + 2 + 4 + TOKEN_BYTES  # two versions, the plan's version, the instance
                for _ in range(3):  # address, boot id, same-host name: all shorter than 128 bytes
                    where += 1 + body[where]
                self.tokens.append(body[where : where + TOKEN_BYTES])
                return
            at += 4 + length


@pytest.fixture
def sender() -> Iterator[Any]:
    node = Node(paths=("tcp",))
    node.add_pool("kv", SHAPE)
    yield node
    node.close()


@pytest.fixture
def receiver() -> Iterator[Any]:
    node = Node(paths=("tcp",))
    node.add_pool("kv", SHAPE)
    yield node
    node.close()


def _lane(address: str, token: bytes) -> socket.socket:
    """A connection that says that it is a lane."""
    host, port = address.rsplit(":", 1)
    connection = socket.create_connection((host, int(port)), timeout=30)
    connection.sendall(b"MCKV" + struct.pack("<HBB", 1, 2, 0) + token)
    return connection


def _is_refused(lane: socket.socket) -> bool:
    with lane, contextlib.suppress(ConnectionResetError):
        return lane.recv(1) == b""
    return True


def _moves(sender: Any, receiver: Any, address: str, tag: bytes) -> None:
    receiver.clear("kv")
    sender.offer(tag, [("kv", range(3))], 40)
    recv = receiver.recv(address, tag, [("kv", range(3, 6))], tokens=40, deadline=30)
    assert receiver.wait(recv).ok
    assert receiver.difference("kv", (tag, range(3, 6), 0, range(40))) is None


def test_a_guessed_token_opens_no_lane(sender: Any, receiver: Any) -> None:
    _moves(sender, receiver, sender.address(), b"before")
    for token in (bytes(TOKEN_BYTES), b"\xff" * TOKEN_BYTES, secrets.token_bytes(TOKEN_BYTES)):
        assert _is_refused(_lane(sender.address(), token))
    assert any("a lane that belongs to no session" in line for _, line in sender.log())
    _moves(sender, receiver, sender.address(), b"after")


def test_a_token_ends_with_its_session(sender: Any, receiver: Any) -> None:
    eavesdropper = Eavesdropper(sender.address())
    _moves(sender, receiver, eavesdropper.address, b"overheard")
    assert len(eavesdropper.tokens) == 1
    eavesdropper.cut()
    eventually(lambda: not sender.peers())
    assert _is_refused(_lane(sender.address(), eavesdropper.tokens[0]))
    eavesdropper.close()
    _moves(sender, receiver, sender.address(), b"after")


def test_a_token_opens_so_many_lanes_and_no_more(sender: Any, receiver: Any) -> None:
    eavesdropper = Eavesdropper(sender.address())
    _moves(sender, receiver, eavesdropper.address, b"overheard")
    lanes = [_lane(sender.address(), eavesdropper.tokens[0]) for _ in range(MOST_LANES)]
    # The session has four; the rest of them fits, and what exceeds the limit is refused.
    refused = lanes[MOST_LANES - 4 :]
    assert all(_is_refused(lane) for lane in refused)
    ready, _, _ = select.select(lanes[: MOST_LANES - 4], [], [], 0)
    assert not ready
    eavesdropper.close()

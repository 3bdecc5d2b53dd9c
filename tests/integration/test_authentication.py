# SPDX-License-Identifier: Apache-2.0
"""Engines in real processes that have keys, the wrong ones, or none."""

from __future__ import annotations

import resource
import socket
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from threading import Thread
from threading import enumerate as all_threads
from typing import Any

import pytest
from support.node import Node, eventually
from support.pages import Shape
from support.processes import NodeProcess, hold_the_gil

KEY, OTHER = "k" * 40, "o" * 40
SHAPE = Shape(page_count=256, page_size=32, dtype="float64")  # 64 KiB a page
KeyFile = Callable[..., str]


@pytest.fixture
def key_file(tmp_path: Path) -> KeyFile:
    """Makes a file with these keys."""

    def make(*keys: str) -> str:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.key"
        path.touch(mode=0o600)
        path.write_text("\n".join(keys))
        return str(path)

    return make


@pytest.fixture
def process() -> Iterator[NodeProcess]:
    """A process for senders, of this test alone."""
    with NodeProcess() as other:
        yield other


def _node(make: Any, **config: Any) -> Any:
    node = make(**config)
    node.add_pool("kv", SHAPE)
    return node


def _ask(sender: Any, receiver: Any, tag: bytes) -> Any:
    receiver.clear("kv")
    sender.offer(tag, [("kv", range(3))], 80)
    recv = receiver.recv(sender.address(), tag, [("kv", range(3, 6))], tokens=80, deadline=10)
    return receiver.wait(recv)


def _moves(sender: Any, receiver: Any, tag: bytes) -> None:
    ended = _ask(sender, receiver, tag)
    assert ended.ok, ended
    assert receiver.difference("kv", (tag, range(3, 6), 0, range(80))) is None


@pytest.mark.parametrize("path", ["shm", "cma", "tcp"])
def test_the_same_key_lets_bytes_move(process: NodeProcess, key_file: KeyFile, path: str) -> None:
    key = key_file(KEY)
    sender = _node(process.node, paths=(path,), key_file=key)
    receiver = _node(Node, paths=(path,), key_file=key)
    _moves(sender, receiver, b"request")
    _moves(receiver, sender, b"the other way round")
    receiver.close()


def test_with_a_key_an_engine_listens_on_all_interfaces(
    process: NodeProcess, key_file: KeyFile
) -> None:
    key = key_file(KEY)
    sender = _node(process.node, host="0.0.0.0", advertise="127.0.0.1", key_file=key)
    receiver = _node(Node, key_file=key)
    _moves(sender, receiver, b"request")
    receiver.close()


@pytest.mark.parametrize(
    ("at_sender", "at_receiver", "message"),
    [
        ([KEY], [OTHER], "different keys"),
        ([KEY], [], "only one of the two engines has a key"),
        ([], [KEY], "only one of the two engines has a key"),
    ],
)
def test_others_are_refused_and_disturb_nobody(
    process: NodeProcess,
    key_file: KeyFile,
    at_sender: list[str],
    at_receiver: list[str],
    message: str,
) -> None:
    def config(keys: list[str]) -> dict[str, str]:
        return {"key_file": key_file(*keys)} if keys else {}

    sender = _node(process.node, **config(at_sender))
    friend, stranger = _node(Node, **config(at_sender)), _node(Node, **config(at_receiver))
    ended = _ask(sender, stranger, b"mine")
    assert ended.error == "AuthenticationFailed"
    assert message in ended.message
    assert "key_file" in ended.message
    assert stranger.difference("kv", (b"mine", range(3, 6), 0, range(80))) is not None
    _moves(sender, friend, b"ours")
    friend.close()
    stranger.close()


def test_keys_can_be_changed_one_engine_after_the_other(key_file: KeyFile) -> None:
    steps = [[OTHER], [OTHER, KEY], [KEY, OTHER], [KEY]]
    for older, newer in pairwise(steps):
        for mine, yours in ((older, newer), (newer, older)):
            sender = _node(Node, key_file=key_file(*mine))
            receiver = _node(Node, key_file=key_file(*yours))
            _moves(sender, receiver, b"request")
            sender.close()
            receiver.close()


def test_a_held_gil_delays_a_handshake_and_nothing_else(
    process: NodeProcess, key_file: KeyFile
) -> None:
    key = key_file(KEY)
    sender = _node(process.node, key_file=key)
    known, late = _node(Node, key_file=key), _node(Node, key_file=key)
    _moves(sender, known, b"before")
    for tag in (b"known", b"late"):
        sender.offer(tag, [("kv", range(3))], 80)
    address = sender.address()  # nothing can be asked of that process meanwhile
    holding = Thread(target=process.run, args=(hold_the_gil, 4))
    holding.start()
    first = late.recv(address, b"late", [("kv", range(3, 6))], tokens=80)
    second = known.recv(address, b"known", [("kv", range(3, 6))], tokens=80)
    assert known.wait(second).ok
    assert holding.is_alive(), "the transfer waited for the GIL"
    assert not late.done(first)
    assert late.wait(first).ok
    holding.join()
    known.close()
    late.close()


def test_connections_that_say_nothing_keep_nobody_out(
    process: NodeProcess, key_file: KeyFile
) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2048:
        pytest.skip(f"needs 2048 descriptors, the hard limit is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    key = key_file(KEY)
    sender = _node(process.node, key_file=key)
    host, port = sender.address().rsplit(":", 1)
    silent = [socket.create_connection((host, int(port))) for _ in range(1000)]
    receiver = _node(Node, key_file=key)
    _moves(sender, receiver, b"request")
    for connection in silent:
        connection.close()
    receiver.close()


def test_the_authentication_thread_ends_with_its_engine(key_file: KeyFile) -> None:
    def serving() -> int:
        return sum(thread.name == "mc-auth" for thread in all_threads())

    before = serving()
    node = _node(Node, key_file=key_file(KEY))
    assert serving() == before + 1
    node.close()
    assert serving() == before
    forgotten = _node(Node, key_file=key_file(KEY))
    del forgotten
    eventually(lambda: serving() == before)

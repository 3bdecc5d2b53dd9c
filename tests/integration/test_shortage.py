# SPDX-License-Identifier: Apache-2.0
"""Memory, descriptors and permissions that the kernel refuses."""

from __future__ import annotations

from typing import Any

import pytest
from support.figures import Figure
from support.limits import address_space, descriptors, limit, unbacked_rings
from support.node import Node
from support.pages import Shape
from support.processes import NodeProcess

SHAPE = Shape(page_count=64, page_size=32, dtype="float64")


def _node(make: Any, **config: Any) -> Any:
    node = make(**config)
    node.add_pool("kv", SHAPE)
    return node


def _fetch(sender: Any, receiver: Any, tag: bytes) -> Any:
    """One transfer."""
    receiver.clear("kv")
    send = sender.offer(tag, [("kv", range(40))], 1280)
    recv = receiver.recv(sender.address(), tag, [("kv", range(9, 49))], tokens=1280, deadline=20.0)
    ended = receiver.wait(recv)
    if not ended.ok:
        sender.abort(send, "its receiver has failed")
    return ended


def _brought(receiver: Any, tag: bytes) -> bool:
    """Whether the last transfer's bytes are there."""
    return receiver.difference("kv", (tag, range(9, 49), 0, range(1280))) is None


@pytest.mark.parametrize("lacking", ["file size", "address space"])
def test_without_shared_memory_tcp_is_used_and_said_so(lacking: str, figure: Figure) -> None:
    sender = _node(Node)
    with NodeProcess() as other:
        receiver = _node(other.node)
        _fetch(_node(Node, paths=("tcp",)), receiver, b"threads are there, and their memory")
        if lacking == "file size":
            other.run(limit, "RLIMIT_FSIZE", 1 << 20)
        else:
            other.run(limit, "RLIMIT_AS", other.run(address_space) + (4 << 20))
        ended = _fetch(sender, receiver, b"without")
        other.run(limit, "RLIMIT_FSIZE", -1)
        other.run(limit, "RLIMIT_AS", -1)
        assert ended.ok, ended
        assert ended.path == "tcp"
        assert _brought(receiver, b"without")
        (peer,) = (peer for peer in receiver.peers() if peer["address"] == sender.address())
        assert any("no same-host path" in note for note in peer["notes"]), peer
        assert any(level == "warning" for level, _ in receiver.log())

        strict = _node(other.node, paths=("shm",))
        other.run(limit, "RLIMIT_FSIZE", 1 << 20)
        ended = _fetch(sender, strict, b"strict")
        other.run(limit, "RLIMIT_FSIZE", -1)
        assert not ended.ok
        assert "shared memory" in ended.message, ended
        assert _fetch(sender, strict, b"again").ok
        assert _brought(strict, b"again")
    sender.close()
    figure(
        f"no shared memory ({lacking}): another path, or that request fails", "tcp; a clear error"
    )


def test_a_ring_is_set_aside_before_it_is_used() -> None:
    """Otherwise the first byte that finds memory full would be a SIGBUS."""
    sender, receiver = _node(Node, paths=("shm",)), _node(Node, paths=("shm",))
    assert _fetch(sender, receiver, b"request").ok
    assert unbacked_rings() == []
    sender.close()
    receiver.close()


@pytest.mark.parametrize("path", ["shm", "tcp"])
@pytest.mark.parametrize("lacking_side", ["receiver", "sender"])
def test_without_descriptors_one_request_fails(
    path: str, lacking_side: str, figure: Figure
) -> None:
    """Who is connected goes on; who is not gets an error; later it works again."""
    with NodeProcess() as other:
        here, there = _node(Node, paths=(path,)), _node(other.node, paths=(path,))
        connected = _node(Node, paths=(path,))
        sender, receiver = (here, there) if lacking_side == "receiver" else (there, here)
        old = (connected, there) if lacking_side == "receiver" else (there, connected)
        assert _fetch(*old, b"before").ok
        other.run(limit, "RLIMIT_NOFILE", other.run(descriptors))
        ended = _fetch(sender, receiver, b"without")
        assert not ended.ok
        assert ended.error in ("ResourceExhausted", "PeerUnreachable", "PeerLost"), ended
        assert _fetch(*old, b"during").ok
        assert _brought(old[1], b"during")
        other.run(limit, "RLIMIT_NOFILE", -1)
        assert _fetch(sender, receiver, b"after").ok
        assert _brought(receiver, b"after")
        assert receiver.leftovers() is None
        for node in (here, connected):
            node.close()
    figure(
        f"no descriptors at the {lacking_side} ({path}): that request fails, others go on",
        ended.error,
    )

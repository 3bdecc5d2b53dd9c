# SPDX-License-Identifier: Apache-2.0
"""One-sided reads and writes of registered memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest


def contents(size: int, seed: int) -> bytes:
    return np.random.default_rng(seed).bytes(size)


def lists(
    size: int, pieces: int, seed: int, bases: tuple[int, int]
) -> tuple[list[int], list[int], list[int]]:
    """Random disjoint pieces: addresses there and here, and lengths."""
    random = np.random.default_rng(seed)
    cell = size // pieces
    lengths = random.integers(1, cell + 1, pieces)
    source = bases[0] + random.permutation(pieces) * cell
    destination = bases[1] + random.permutation(pieces) * cell
    return source.tolist(), destination.tolist(), lengths.tolist()


def copied(source: bytes, size: int, copies: Any, bases: tuple[int, int]) -> bytes:
    result = bytearray(size)
    for there, here, length in zip(*copies, strict=True):
        result[here - bases[1] : here - bases[1] + length] = source[
            there - bases[0] : there - bases[0] + length
        ]
    return bytes(result)


@pytest.mark.parametrize(("size", "pieces"), [(64, 1), (1 << 20, 1000), (24 << 20, 3)])
@pytest.mark.parametrize("verb", ["read", "write"])
def test_bytes_lie_where_they_belong(
    sender: Any, receiver: Any, verb: str, size: int, pieces: int
) -> None:
    active, passive = receiver, sender
    source_node, target_node = (passive, active) if verb == "read" else (active, passive)
    remote = {"read": ("r", ""), "write": ("", "w")}[verb]
    source = source_node.add_memory(size, remote[0])
    target = target_node.add_memory(size, remote[1])
    data = contents(size, 1)
    source_node.store(source, data)
    copies = lists(size, pieces, 2, (source, target))

    transfer = getattr(active, verb)(passive.address(), *copies)

    ended = active.wait(transfer)
    assert (ended.error, ended.bytes) == (None, sum(copies[2]))
    assert target_node.load(target) == copied(data, size, copies, (source, target))


@pytest.mark.parametrize(
    ("verb", "remote"), [("read", ""), ("read", "w"), ("write", ""), ("write", "r")]
)
def test_memory_is_used_only_as_it_was_registered_for(
    sender: Any, receiver: Any, verb: str, remote: str
) -> None:
    here, there = receiver.add_memory(4096, "rw"), sender.add_memory(4096, remote)
    sender.store(there, b"secret")
    receiver.store(here, b"intruder")
    source, target = (there, here) if verb == "read" else (here, there)

    ended = receiver.wait(getattr(receiver, verb)(sender.address(), [source], [target], [64]))

    assert ended.error == "ConfigError"
    assert "register_memory" in ended.message
    assert f"remote='{verb[0]}'" in ended.message
    assert sender.load(there).startswith(b"secret")
    assert receiver.load(here).startswith(b"intruder")


@pytest.mark.parametrize(("offset", "length"), [(-1, 16), (4090, 16), (4096, 1), (0, 4097)])
def test_nothing_outside_registered_memory_is_touched(
    sender: Any, receiver: Any, offset: int, length: int
) -> None:
    here, there = receiver.add_memory(8192, ""), sender.add_memory(4096, "rw")
    for verb in ("read", "write"):
        source, target = (there + offset, here) if verb == "read" else (here, there + offset)
        transfer = getattr(receiver, verb)(sender.address(), [source], [target], [length])
        assert receiver.wait(transfer).error == "ConfigError"
    assert not any(sender.load(there))


def test_both_directions_at_once(sender: Any, receiver: Any) -> None:
    size = 4 << 20
    here, there = receiver.add_memory(2 * size, "rw"), sender.add_memory(2 * size, "rw")
    receiver.store(here, contents(size, 3))
    sender.store(there, contents(size, 4))
    write = receiver.write(sender.address(), [here], [there + size], [size])
    read = receiver.read(sender.address(), [there], [here + size], [size])
    assert receiver.wait(write).ok
    assert receiver.wait(read).ok
    assert receiver.load(here)[size:] == contents(size, 4)
    assert sender.load(there)[size:] == contents(size, 3)

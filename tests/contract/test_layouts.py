# SPDX-License-Identifier: Apache-2.0
"""Bytes arrive where they belong, whatever the two sides' layouts are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from support.pages import Shape

NHD = Shape(axes="LSBNHC")
HND = Shape(axes="LSBHNC")
JOINED = Shape(axes="LBNHC")  # K and V side by side in the last axis
CROSS_LAYER = Shape(axes="BLSHNC")  # a page holds all layers
MLA = Shape(axes="LBNC", heads=range(1), elements=72, kind="mla", dtype="bfloat16")

PAIRS = {
    "same": (NHD, NHD),
    "heads first": (HND, HND),
    "tokens first to heads first": (NHD, HND),
    "heads first to tokens first": (HND, NHD),
    "joined": (JOINED, JOINED),
    "joined to split": (JOINED, HND),
    "split to joined": (NHD, JOINED),
    "cross-layer to joined": (CROSS_LAYER, JOINED),
    "MLA": (MLA, replace(MLA, axes="BLNC")),
    "one-byte elements": (
        replace(JOINED, dtype="uint8", elements=33),
        replace(NHD, dtype="uint8", elements=33),
    ),
    "small to large pages": (
        replace(HND, page_size=4, page_count=128),
        replace(HND, page_size=32, page_count=16),
    ),
    "large to small pages": (
        replace(NHD, page_size=64, page_count=8),
        replace(JOINED, page_size=1, page_count=512),
    ),
    "sizes that do not divide": (
        replace(NHD, page_size=24, page_count=20),
        replace(HND, page_size=16),
    ),
}


@pytest.mark.parametrize("pair", PAIRS)
def test_bytes_lie_where_they_belong(sender: Any, receiver: Any, pair: str, path: str) -> None:
    source, destination = PAIRS[pair]
    tokens = 293  # a part of the last page stays unwanted
    sender.add_pool("kv", source)
    receiver.add_pool("kv", destination)
    pages_there = shuffled(source, tokens, seed=1)
    pages_here = shuffled(destination, tokens, seed=2)

    send = sender.offer(b"request", [("kv", pages_there)], tokens)
    recv = receiver.recv(sender.address(), b"request", [("kv", pages_here)], tokens=tokens)

    received = receiver.wait(recv)
    assert (received.error, received.path) == (None, path)
    assert received.bytes == tokens * destination.token_bytes
    assert receiver.difference("kv", (b"request", pages_here, 0, range(tokens))) is None
    assert sender.wait(send).ok


@pytest.mark.parametrize("first_token", [1, 16, 45])
def test_only_missing_tokens_are_fetched(sender: Any, receiver: Any, first_token: int) -> None:
    sender.add_pool("kv", NHD)
    receiver.add_pool("kv", replace(HND, page_size=8, page_count=64))
    tokens, skipped = 100, first_token // 8
    pages_there, pages_here = shuffled(NHD, tokens, 3), list(range(20, 20 + 13 - skipped))

    sender.offer(b"hit", [("kv", pages_there)], tokens)
    recv = receiver.recv(
        sender.address(), b"hit", [("kv", pages_here)], tokens=tokens, first_token=first_token
    )

    received = receiver.wait(recv)
    assert received.ok, received
    assert received.bytes == (tokens - first_token) * NHD.token_bytes
    wanted = (b"hit", pages_here, skipped * 8, range(first_token, tokens))
    assert receiver.difference("kv", wanted) is None


def test_null_pages_of_the_receiver_are_left_out(sender: Any, receiver: Any) -> None:
    sender.add_pool("kv", NHD)
    receiver.add_pool("kv", replace(NHD, null_page=0))
    pages_here = [0, 0, 5, 6, 0, 9]

    sender.offer(b"window", [("kv", range(10, 16))], 96)
    recv = receiver.recv(sender.address(), b"window", [("kv", pages_here)], tokens=96)

    assert receiver.wait(recv).bytes == 3 * 16 * NHD.token_bytes
    assert receiver.difference("kv", (b"window", pages_here, 0, range(96))) is None


@pytest.mark.parametrize("window_here", [([0, 0, 0, 7, 8],), ([7, 8], 48)])
def test_windows_and_rows_come_with_the_end(
    sender: Any, receiver: Any, window_here: tuple[Any, ...]
) -> None:
    """The window's pages stand behind null pages, or say where they begin."""
    window = replace(HND, layers=range(2, 4), null_page=0)
    state = Shape(axes="LBC", kind="state", heads=range(1), page_size=1, elements=99, dtype="uint8")
    aux = replace(state, layers=range(1), kind="aux", elements=512)
    for node in (sender, receiver):
        node.add_pool("full", NHD)
        node.add_pool("window", window)
        node.add_pool("state", state)
        node.add_pool("aux", aux)
    tokens, tag = 80, b"hybrid"

    send = sender.send(tag)
    sender.append(send, "full", range(5))
    recv = receiver.recv(
        sender.address(),
        tag,
        [("full", range(10, 15)), ("window", *window_here)],
        tokens=tokens,
        rows=[("state", [3, 1]), ("aux", [30])],
    )
    sender.fill("full", tag, range(5))
    sender.mark_ready(send, tokens)
    assert not receiver.done(recv)
    sender.fill("window", tag, [20, 21], first_token=48)
    sender.fill("state", tag, [8, 9])
    sender.fill("aux", tag, [2])
    sender.finish(
        send, windows=[("window", [0, 20, 21], 32)], rows=[("state", [8, 9]), ("aux", [2])]
    )

    assert receiver.wait(recv).ok
    assert receiver.difference("full", (tag, range(10, 15), 0, range(tokens))) is None
    assert receiver.difference("window", (tag, [7, 8], 48, range(48, tokens))) is None
    assert receiver.difference("state", (tag, [3, 1], 0, range(2))) is None
    assert receiver.difference("aux", (tag, [30], 0, range(1))) is None
    assert sender.wait(send).ok


@pytest.mark.parametrize("seed", range(6))
def test_random_layouts(sender: Any, receiver: Any, seed: int) -> None:
    random = np.random.default_rng(seed)
    common = Shape(
        layers=range(int(random.integers(1, 5))),
        heads=range(int(random.integers(1, 5))),
        elements=int(random.integers(1, 70)),
        dtype=str(random.choice(["uint8", "float16", "float32"])),
    )
    tokens = int(random.integers(1, 300))
    shapes = [
        replace(
            common,
            axes=str(random.choice(["LSBNHC", "LSBHNC", "LBNHC", "BLSHNC", "SLBHNC", "BNLHC"])),
            page_size=int(random.integers(1, 40)),
            page_count=300,
        )
        for _ in range(2)
    ]
    first_token = int(random.integers(0, tokens))
    sender.add_pool("kv", shapes[0])
    receiver.add_pool("kv", shapes[1])
    pages_there = shuffled(shapes[0], tokens, seed)
    skipped = first_token // shapes[1].page_size
    pages_here = shuffled(shapes[1], tokens, seed + 100)[skipped:]

    sender.offer(b"any", [("kv", pages_there)], tokens)
    recv = receiver.recv(
        sender.address(), b"any", [("kv", pages_here)], tokens=tokens, first_token=first_token
    )

    assert receiver.wait(recv).ok
    wanted = (b"any", pages_here, skipped * shapes[1].page_size, range(first_token, tokens))
    assert receiver.difference("kv", wanted) is None


def shuffled(shape: Shape, tokens: int, seed: int) -> list[int]:
    """Enough pages for the tokens, in no order."""
    pages = np.random.default_rng(seed).permutation(shape.page_count)
    return [int(page) for page in pages[: -(-tokens // shape.page_size)]]

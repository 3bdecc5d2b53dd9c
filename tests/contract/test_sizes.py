# SPDX-License-Identifier: Apache-2.0
"""From one span of a few bytes to 100,000 spans and to spans of 8 MiB."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.pages import Shape


def plain(page_bytes: int, page_count: int) -> Shape:
    """Pages of one token, each one contiguous stretch."""
    return Shape(
        axes="BC",
        layers=range(1),
        heads=range(1),
        kind="mla",
        page_size=1,
        page_count=page_count,
        dtype="uint64",
        elements=page_bytes // 8,
    )


@pytest.mark.parametrize(
    "page_bytes", [8, 4096, 16 << 10, (16 << 10) + 8, 64 << 10, (64 << 10) + 8, 8 << 20]
)
def test_one_span(sender: Any, receiver: Any, page_bytes: int, path: str) -> None:
    """Around each size at which the way changes."""
    for node in (sender, receiver):
        node.add_pool("kv", plain(page_bytes, 3))
    send = sender.offer(b"one", [("kv", [2])], 1)
    recv = receiver.recv(sender.address(), b"one", [("kv", [1])], tokens=1)
    received = receiver.wait(recv)
    assert (received.error, received.bytes, received.path) == (None, page_bytes, path)
    assert receiver.difference("kv", (b"one", [1], 0, range(1))) is None
    assert sender.wait(send).ok


@pytest.mark.parametrize(
    ("page_bytes", "pages"), [(64, 100_000), (1024, 4096), (16 << 10, 512), (8 << 20, 3)]
)
def test_random_pages(sender: Any, receiver: Any, page_bytes: int, pages: int) -> None:
    for node in (sender, receiver):
        node.add_pool("kv", plain(page_bytes, pages + pages // 2))
    random = np.random.default_rng(7)
    there = random.permutation(pages + pages // 2)[:pages].tolist()
    here = random.permutation(pages + pages // 2)[:pages].tolist()
    send = sender.offer(b"random", [("kv", there)], pages)
    recv = receiver.recv(sender.address(), b"random", [("kv", here)], tokens=pages)
    received = receiver.wait(recv)
    assert (received.error, received.bytes) == (None, pages * page_bytes)
    assert receiver.difference("kv", (b"random", here, 0, range(pages))) is None
    assert sender.wait(send).ok


def test_comb_of_single_tokens(sender: Any, receiver: Any) -> None:
    """Every other page: nothing can be merged."""
    pages, shape = 2000, plain(256, 4000)
    for node in (sender, receiver):
        node.add_pool("kv", shape)
    send = sender.offer(b"comb", [("kv", range(0, 4000, 2))], pages)
    here = range(1, 4000, 2)
    recv = receiver.recv(sender.address(), b"comb", [("kv", here)], tokens=pages)
    received = receiver.wait(recv)
    assert received.ok
    assert received.spans == pages
    assert receiver.difference("kv", (b"comb", here, 0, range(pages))) is None
    assert sender.wait(send).ok


def test_neighbouring_pages_are_merged(sender: Any, receiver: Any) -> None:
    """A contiguous request costs a few spans, not one for each page."""
    pages = 4000
    for node in (sender, receiver):
        node.add_pool("kv", plain(256, pages))
    send = sender.offer(b"flat", [("kv", range(pages))], pages)
    recv = receiver.recv(sender.address(), b"flat", [("kv", range(pages))], tokens=pages)
    received = receiver.wait(recv)
    assert received.ok
    assert received.spans <= 10
    assert receiver.difference("kv", (b"flat", range(pages), 0, range(pages))) is None
    assert sender.wait(send).ok

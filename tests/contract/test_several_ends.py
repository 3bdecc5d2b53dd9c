# SPDX-License-Identifier: Apache-2.0
"""Transfers with several senders or several receivers, and equal tags."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from support.pages import Shape

WHOLE = Shape(layers=range(4), heads=range(4))
HERE = [9, 3, 7, 1, 5]
TAG, TOKENS = b"split", 75

SPLITS = {
    "tensor parallel": [replace(WHOLE, heads=range(2)), replace(WHOLE, heads=range(2, 4))],
    "pipeline parallel": [replace(WHOLE, layers=range(1)), replace(WHOLE, layers=range(1, 4))],
    "both": [
        replace(WHOLE, heads=heads, layers=layers)
        for heads in (range(1), range(1, 4))
        for layers in (range(2), range(2, 4))
    ],
    "replicated": [WHOLE, WHOLE, WHOLE],
    "replicated heads": [
        replace(WHOLE, heads=heads) for heads in (range(2), range(2), range(2, 4), range(2, 4))
    ],
    "other layouts": [
        replace(WHOLE, heads=range(2), axes="LBHNC", page_size=8, page_count=64),
        replace(WHOLE, heads=range(2, 4), axes="LSBNHC", page_size=64, page_count=8),
    ],
}


@pytest.mark.parametrize("split", SPLITS)
def test_several_senders_feed_one_receiver(new_sender: Any, receiver: Any, split: str) -> None:
    receiver.add_pool("kv", WHOLE)
    senders, sends = [], []
    for shape in SPLITS[split]:
        senders.append(new_sender())
        senders[-1].add_pool("kv", shape)
        pages = list(range(-(-TOKENS // shape.page_size)))
        sends.append(senders[-1].offer(TAG, [("kv", pages)], TOKENS))

    addresses = [sender.address() for sender in senders]
    recv = receiver.recv(addresses, TAG, [("kv", HERE)], tokens=TOKENS)

    received = receiver.wait(recv)
    assert received.ok, received
    assert received.bytes == TOKENS * WHOLE.token_bytes
    assert receiver.difference("kv", (TAG, HERE, 0, range(TOKENS))) is None
    for sender, send in zip(senders, sends, strict=True):
        assert sender.wait(send).ok


def test_one_send_feeds_several_receivers(sender: Any, new_receiver: Any) -> None:
    sender.add_pool("kv", WHOLE)
    send = sender.offer(TAG, [("kv", range(5))], TOKENS)
    parts = [range(1), range(1, 2), range(2, 4)]
    receivers = [new_receiver() for _ in parts]
    recvs = []
    for index, (receiver, heads) in enumerate(zip(receivers, parts, strict=True)):
        receiver.add_pool("kv", replace(WHOLE, heads=heads))
        assert not sender.done(send)
        recvs.append(
            receiver.recv(
                sender.address(),
                TAG,
                [("kv", HERE)],
                tokens=TOKENS,
                request=77,
                receiver_index=index,
                receiver_count=len(parts),
            )
        )
    for receiver, recv in zip(receivers, recvs, strict=True):
        assert receiver.wait(recv).ok
        assert receiver.difference("kv", (TAG, HERE, 0, range(TOKENS))) is None
    sent = sender.wait(send)
    assert (sent.error, sent.bytes) == (None, TOKENS * WHOLE.token_bytes)


def test_equal_tags_pair_first_come_first_served(sender: Any, receiver: Any) -> None:
    """As with n=2: two requests under one tag, each with its own pages on both sides."""
    for node in (sender, receiver):
        node.add_pool("kv", WHOLE)
    first = sender.offer(TAG, [("kv", range(5))], TOKENS)
    second = sender.offer(TAG, [("kv", range(10, 15))], TOKENS)
    recvs = [
        receiver.recv(sender.address(), TAG, [("kv", pages)], tokens=TOKENS)
        for pages in (range(5), range(20, 25))
    ]
    for recv in recvs:
        assert receiver.wait(recv).ok
    spans = [(TAG, pages, 0, range(TOKENS)) for pages in (range(5), range(20, 25))]
    assert receiver.difference("kv", *spans) is None
    for send in (first, second):
        assert sender.wait(send).bytes == TOKENS * WHOLE.token_bytes


def test_many_requests_at_once(sender: Any, receiver: Any) -> None:
    shape = replace(WHOLE, page_count=500)
    for node in (sender, receiver):
        node.add_pool("kv", shape)
    tags = [b"request %d" % number for number in range(100)]
    pages = {tag: list(range(5 * index, 5 * index + 5)) for index, tag in enumerate(tags)}
    recvs = [
        receiver.recv(sender.address(), tag, [("kv", pages[tag])], tokens=TOKENS)
        for tag in tags[::2]
    ]
    sends = [sender.offer(tag, [("kv", pages[tag])], TOKENS) for tag in tags]
    recvs += [
        receiver.recv(sender.address(), tag, [("kv", pages[tag])], tokens=TOKENS)
        for tag in tags[1::2]
    ]
    assert {receiver.wait(recv).error for recv in recvs} == {None}
    assert {sender.wait(send).error for send in sends} == {None}
    wanted = [(tag, pages[tag], 0, range(TOKENS)) for tag in tags]
    assert receiver.difference("kv", *wanted) is None

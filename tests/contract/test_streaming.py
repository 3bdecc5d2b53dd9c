# SPDX-License-Identifier: Apache-2.0
"""A send that grows: pages are shipped as they become ready, and may be taken back."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from support.node import eventually
from support.pages import Shape

SHAPE = Shape(page_count=64)
TAG = b"streamed"


def arrived(node: Any, pages: list[int], tokens: int) -> Callable[[], bool]:
    return lambda: node.difference("kv", (TAG, pages, 0, range(tokens))) is None


def test_pages_are_shipped_as_they_become_ready(sender: Any, receiver: Any) -> None:
    for node in (sender, receiver):
        node.add_pool("kv", SHAPE)
    there, here = list(range(10)), list(range(30, 40))
    recv = receiver.recv(sender.address(), TAG, [("kv", here)], tokens=150)
    send = sender.send(TAG)
    for chunk in range(0, 10, 2):
        sender.append(send, "kv", there[chunk : chunk + 2])
        sender.fill("kv", TAG, there[chunk : chunk + 2], first_token=16 * chunk)
        sender.mark_ready(send, 16 * (chunk + 2))
        # Before the next chunk exists this one is there.
        eventually(arrived(receiver, here, min(16 * (chunk + 2), 150)))
        assert not receiver.done(recv) or chunk == 8
    sender.finish(send)

    assert receiver.wait(recv).ok
    assert receiver.difference("kv", (TAG, here, 0, range(150))) is None
    assert sender.wait(send).ok


def test_the_send_may_begin_past_token_zero(sender: Any, receiver: Any) -> None:
    for node in (sender, receiver):
        node.add_pool("kv", SHAPE)
    send = sender.send(TAG)
    sender.append(send, "kv", [5, 6, 7], first_token=32)
    sender.fill("kv", TAG, [5, 6, 7], first_token=32)
    sender.mark_ready(send, 80)
    sender.finish(send)
    recv = receiver.recv(sender.address(), TAG, [("kv", [1, 4, 2])], tokens=70, first_token=40)
    assert receiver.wait(recv).ok
    assert receiver.difference("kv", (TAG, [1, 4, 2], 32, range(40, 70))) is None
    assert sender.wait(send).ok


def test_unready_tokens_stay(sender: Any, receiver: Any) -> None:
    for node in (sender, receiver):
        node.add_pool("kv", SHAPE)
    send = sender.send(TAG)
    sender.append(send, "kv", range(4))
    sender.fill("kv", TAG, range(4))
    sender.mark_ready(send, 32)
    recv = receiver.recv(sender.address(), TAG, [("kv", range(4))], tokens=64)
    eventually(arrived(receiver, list(range(4)), 32))
    time.sleep(0.05)  # nothing else may follow
    assert arrived(receiver, list(range(4)), 32)()
    sender.abort(send, "the test is over")
    assert receiver.wait(recv).error == "TransferAborted"
    assert sender.wait(send).error == "TransferAborted"


def test_pages_taken_back_are_sent_again_from_elsewhere(sender: Any, receiver: Any) -> None:
    """Preemption: the first pages get other contents while the transfer is under way."""
    for node in (sender, receiver):
        node.add_pool("kv", SHAPE)
    here = list(range(8))
    send = sender.send(TAG)
    recv = receiver.recv(sender.address(), TAG, [("kv", here)], tokens=128)
    sender.append(send, "kv", range(20, 26))
    sender.fill("kv", TAG, range(20, 26))
    sender.mark_ready(send, 96)
    eventually(arrived(receiver, here, 96))

    sender.rewind(send, 0)
    sender.fill("kv", b"somebody else's", range(20, 26))
    sender.append(send, "kv", range(40, 48))
    sender.fill("kv", TAG, range(40, 48))
    sender.mark_ready(send, 128)
    sender.finish(send)

    assert receiver.wait(recv).ok
    assert receiver.difference("kv", (TAG, here, 0, range(128))) is None
    assert sender.wait(send).ok


def test_rewinds_in_mid_transfer_never_mix_contents(sender: Any, receiver: Any) -> None:
    """Pages are overwritten as soon as rewind returns; what arrives is never their new contents."""
    large = Shape(page_count=256, page_size=64, dtype="float64")  # 128 KiB a page
    for node in (sender, receiver):
        node.add_pool("kv", large)
    tokens, here = 64 * 100, list(range(100))
    send = sender.send(TAG)
    recv = receiver.recv(sender.address(), TAG, [("kv", here)], tokens=tokens)
    for turn in range(5):
        there = range(100 * (turn % 2), 100 * (turn % 2) + 100)
        sender.fill("kv", TAG, there)
        sender.append(send, "kv", there)
        sender.mark_ready(send, tokens)
        if turn < 4:
            time.sleep(0.002 * turn)
            sender.rewind(send, 0)
            sender.fill("kv", b"somebody else's", there)
    sender.finish(send)

    assert receiver.wait(recv).ok
    assert receiver.difference("kv", (TAG, here, 0, range(tokens))) is None
    assert sender.wait(send).ok


def test_a_rewind_keeps_what_stands_before_it(sender: Any, receiver: Any) -> None:
    for node in (sender, receiver):
        node.add_pool("kv", SHAPE)
    here = list(range(6))
    send = sender.send(TAG)
    sender.append(send, "kv", [10, 11, 12, 13])
    sender.fill("kv", TAG, [10, 11, 12, 13])
    sender.mark_ready(send, 64)
    recv = receiver.recv(sender.address(), TAG, [("kv", here)], tokens=96)
    sender.rewind(send, 40)  # in the third page, which stays
    sender.fill("kv", b"somebody else's", [13])
    sender.append(send, "kv", [20, 21, 22])
    sender.fill("kv", TAG, [20, 21, 22], first_token=48)
    sender.mark_ready(send, 96)
    sender.finish(send)

    assert receiver.wait(recv).ok
    assert receiver.difference("kv", (TAG, here, 0, range(96))) is None
    assert sender.wait(send).ok


def test_matched_tells_who_came_and_from_where(sender: Any, receiver: Any) -> None:
    for node in (sender, receiver):
        node.add_pool("kv", SHAPE)
    send = sender.send(TAG)
    assert sender.matched(send) == []
    recv = receiver.recv(sender.address(), TAG, [("kv", [1, 2])], tokens=48, first_token=20)
    eventually(lambda: sender.matched(send) == [(receiver.address(), 20)])
    sender.append(send, "kv", [1, 2, 3])
    sender.mark_ready(send, 48)
    sender.finish(send)
    assert receiver.wait(recv).ok
    assert sender.wait(send).ok

# SPDX-License-Identifier: Apache-2.0
"""How transfers end that do not go well: cancelled, aborted, late, released, never matched."""

from __future__ import annotations

import time
from typing import Any

import pytest
from support.node import eventually
from support.pages import Shape

from mooncake_connector.errors import TransferTimeout

SHAPE = Shape(page_count=256, page_size=32, dtype="float64")  # 64 KiB a page
TAG, TOKENS = b"request", 32 * 200


def works(sender: Any, receiver: Any) -> None:
    """The pair still moves bytes."""
    receiver.clear("kv")
    send = sender.offer(b"next", [("kv", range(3))], 80)
    recv = receiver.recv(sender.address(), b"next", [("kv", range(3, 6))], tokens=80)
    assert receiver.wait(recv).ok
    assert sender.wait(send).ok
    assert receiver.difference("kv", (b"next", range(3, 6), 0, range(80))) is None


@pytest.fixture(autouse=True)
def pools(sender: Any, receiver: Any) -> None:
    for node in (sender, receiver):
        node.add_pool("kv", SHAPE)


def test_a_release_frees_the_sender_and_moves_nothing(sender: Any, receiver: Any) -> None:
    send = sender.offer(TAG, [("kv", range(200))], TOKENS)
    recv = receiver.recv(sender.address(), TAG)
    ended = receiver.wait(recv)
    assert (ended.error, ended.bytes, ended.path) == (None, 0, None)
    assert sender.wait(send).ok
    assert sender.matched(send) == [(receiver.address(), None)]
    assert receiver.difference("kv") is None


def test_a_release_ends_before_the_send_is_ready(sender: Any, receiver: Any) -> None:
    send = sender.send(TAG)
    assert receiver.wait(receiver.recv(sender.address(), TAG)).ok
    sender.finish(send)
    assert sender.wait(send).ok


@pytest.mark.parametrize("delay", [0, 0.0005, 0.002, 0.005])
def test_no_byte_is_written_after_a_cancelled_recv_completed(
    sender: Any, receiver: Any, delay: float
) -> None:
    send = sender.offer(TAG, [("kv", range(200))], TOKENS)
    recv = receiver.recv(sender.address(), TAG, [("kv", range(200))], tokens=TOKENS)
    time.sleep(delay)
    receiver.cancel(recv)
    assert receiver.wait(recv).error in (None, "TransferAborted")
    receiver.clear("kv")  # the pages are ours again
    time.sleep(0.05)
    assert receiver.difference("kv") is None
    sender.abort(send, "if the receiver gave up before it had asked")
    works(sender, receiver)


@pytest.mark.parametrize("delay", [0, 0.0005, 0.002, 0.005])
def test_no_byte_is_read_after_an_aborted_send_completed(
    sender: Any, receiver: Any, delay: float
) -> None:
    send = sender.send(TAG)
    sender.append(send, "kv", range(200))
    sender.fill("kv", TAG, range(200))
    recv = receiver.recv(sender.address(), TAG, [("kv", range(200))], tokens=TOKENS)
    sender.mark_ready(send, TOKENS)
    time.sleep(delay)
    sender.abort(send, "the client went away")
    aborted = sender.wait(send)
    sender.fill("kv", b"somebody else's", range(200))
    assert aborted.error == "TransferAborted"
    ended = receiver.wait(recv)
    if ended.ok:  # it had everything before
        assert receiver.difference("kv", (TAG, range(200), 0, range(TOKENS))) is None
    else:
        assert ended.error == "TransferAborted"
        assert "the client went away" in ended.message
    works(sender, receiver)


def test_a_recv_before_its_send_waits(sender: Any, receiver: Any) -> None:
    recv = receiver.recv(sender.address(), TAG, [("kv", range(2))], tokens=64)
    with pytest.raises(TransferTimeout):
        receiver.wait(recv, 0.1)
    send = sender.offer(TAG, [("kv", range(2))], 64)
    assert receiver.wait(recv).ok
    assert sender.wait(send).ok


def test_a_recv_ends_at_its_deadline(sender: Any, receiver: Any) -> None:
    send = sender.send(TAG)
    recv = receiver.recv(sender.address(), TAG, [("kv", range(2))], tokens=64, deadline=0.3)
    ended = receiver.wait(recv)
    assert ended.error == "TransferTimeout"
    assert "deadline" in ended.message
    sender.abort(send, "nobody is left")
    works(sender, receiver)


def test_a_send_that_nobody_wants_ends_at_its_deadline(sender: Any, receiver: Any) -> None:
    send = sender.send(TAG, deadline=0.3)
    time.sleep(0.6)
    assert not sender.done(send)  # its owner may take as long as he likes
    sender.finish(send)
    ended = sender.wait(send)
    assert ended.error == "TransferTimeout"
    assert "no receiver came" in ended.message
    works(sender, receiver)


def test_an_unknown_tag_fails_at_the_senders_limit(new_sender: Any, receiver: Any) -> None:
    sender = new_sender(unknown_timeout=0.3)
    sender.add_pool("kv", SHAPE)
    recv = receiver.recv(sender.address(), b"no such", [("kv", range(2))], tokens=64)
    ended = receiver.wait(recv)
    assert ended.error == "TransferTimeout"
    assert "no send with this tag" in ended.message
    works(sender, receiver)


def test_a_known_tag_outlives_the_limit_of_unknown_ones(new_sender: Any, receiver: Any) -> None:
    sender = new_sender(unknown_timeout=0.2)
    sender.add_pool("kv", SHAPE)
    send = sender.send(TAG)
    recv = receiver.recv(sender.address(), TAG, [("kv", range(2))], tokens=64)
    time.sleep(0.6)
    sender.append(send, "kv", range(2))
    sender.fill("kv", TAG, range(2))
    sender.mark_ready(send, 64)
    sender.finish(send)
    assert receiver.wait(recv).ok


def test_a_recv_for_a_send_that_failed_before_hears_why(sender: Any, receiver: Any) -> None:
    send = sender.send(TAG)
    sender.abort(send, "out of pages")
    sender.wait(send)
    ended = receiver.wait(receiver.recv(sender.address(), TAG, [("kv", range(2))], tokens=64))
    assert ended.error == "TransferAborted"
    assert "out of pages" in ended.message


def test_a_send_that_ends_short_fails_its_receiver_only(sender: Any, receiver: Any) -> None:
    short = sender.offer(TAG, [("kv", range(2))], 50)
    other = sender.offer(b"other", [("kv", range(2, 4))], 64)
    recvs = [
        receiver.recv(sender.address(), tag, [("kv", pages)], tokens=64)
        for tag, pages in ((TAG, range(2)), (b"other", range(2, 4)))
    ]
    ended = receiver.wait(recvs[0])
    assert not ended.ok
    assert "50 tokens" in ended.message
    assert "64" in ended.message
    assert receiver.wait(recvs[1]).ok
    assert not sender.wait(short).ok
    assert sender.wait(other).ok


def test_closing_the_sender_ends_its_receivers(new_sender: Any, receiver: Any) -> None:
    sender = new_sender()
    sender.add_pool("kv", SHAPE)
    send = sender.send(TAG)
    recv = receiver.recv(sender.address(), TAG, [("kv", range(2))], tokens=64)
    with pytest.raises(TransferTimeout):
        receiver.wait(recv, 0.1)
    sender.close()
    assert sender.wait(send).error == "TransferAborted"
    ended = receiver.wait(recv)
    assert ended.error in ("TransferAborted", "PeerLost")
    assert "closed" in ended.message


def test_closing_the_receiver_frees_the_sender(sender: Any, new_receiver: Any) -> None:
    receiver = new_receiver()
    receiver.add_pool("kv", SHAPE)
    send = sender.offer(TAG, [("kv", range(2))], 64)
    recv = receiver.recv(sender.address(), TAG, [("kv", range(200))], tokens=TOKENS)
    eventually(lambda: bool(sender.matched(send)))
    receiver.close()
    assert not receiver.wait(recv).ok
    assert not sender.wait(send).ok

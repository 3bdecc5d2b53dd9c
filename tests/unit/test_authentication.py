# SPDX-License-Identifier: Apache-2.0
"""The thread that makes and checks proofs, with a native engine that only asks."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

import pytest

from mooncake_connector import authentication
from mooncake_connector.keys import Key

FIRST, SECOND = Key(b"1" * 32), Key(b"2" * 32)
STATEMENT = b"what was said"


class Native:
    """Hands out one task and keeps the answer."""

    def __init__(self, key: Key, proof: bytes | None) -> None:
        self.tasks: list[Any] = [(7, key.id, STATEMENT, proof)]
        self.answers: list[tuple[int, bytes | None]] = []

    def next_proof(self) -> Any:
        return self.tasks.pop() if self.tasks else None

    def answer_proof(self, session: int, proof: bytes | None) -> None:
        self.answers.append((session, proof))


def proof_of(key: Key, statement: bytes = STATEMENT) -> bytes:
    return hmac.new(key.secret, statement, hashlib.sha256).digest()


def answer(key: Key, proof: bytes | None) -> bytes | None:
    native = Native(key, proof)
    thread = authentication.start(native, [FIRST, SECOND])  # type: ignore[arg-type]
    assert thread is not None
    thread.join()
    ((session, answered),) = native.answers
    assert session == 7
    return answered


@pytest.mark.parametrize("key", [FIRST, SECOND])
def test_makes_proofs_and_accepts_right_ones(key: Key) -> None:
    assert answer(key, None) == proof_of(key)
    assert answer(key, proof_of(key)) == proof_of(key)


@pytest.mark.parametrize(
    "wrong",
    [b"", bytes(32), proof_of(SECOND), proof_of(FIRST, b"something else"), proof_of(FIRST)[:31]],
)
def test_refuses_wrong_ones(wrong: bytes) -> None:
    assert answer(FIRST, wrong) is None


def test_without_a_key_there_is_no_thread() -> None:
    assert authentication.start(Native(FIRST, None), []) is None  # type: ignore[arg-type]

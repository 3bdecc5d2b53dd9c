# SPDX-License-Identifier: Apache-2.0
"""The names that P and D give a request without talking."""

from __future__ import annotations

_MOST = (1 << 64) - 1


def tag_of(room: int) -> bytes:
    """The tag of a request: its room, which the router chooses at random for both servers."""
    return f"sglang room {room}".encode()


def request_number(room: int) -> int:
    """What all ranks of D call one request: a positive number of 64 bits."""
    return room & _MOST or _MOST

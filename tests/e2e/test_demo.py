# SPDX-License-Identifier: Apache-2.0
"""examples/demonstration.py: what it says while servers start, and what counts as a success."""

from __future__ import annotations

import io
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from demonstration import Answer, Comparison, wait_ready
from rich.console import Console
from transfer_log import Transfer

RIGHT, WRONG, LOST = Answer(5, "right"), Answer(5, "wrong"), Answer(error="HTTP 500")
TRANSFER = Transfer("r", 5, 4096, 1, "shm", 0.5)


class FakeServers:
    """Servers of which one more answers at each look."""

    def __init__(self) -> None:
        self.servers: list[Any] = []

    def start(self, name: str) -> None:
        self.servers.append(SimpleNamespace(name=name, ready_after=None))

    def wait_ready(self, timeout: float, progress: Callable[[Any], None]) -> None:
        for server in self.servers:
            server.ready_after = server.ready_after or timeout
            progress(self.servers)


def test_each_server_is_announced_once() -> None:
    servers: Any = FakeServers()
    console, told = Console(file=io.StringIO(), width=80), set[str]()
    for name in ("prefill", "router", "proxy"):
        servers.start(name)
        wait_ready(console, servers, 3.0, told)
    output = console.file.getvalue()  # type: ignore[attr-defined]
    assert [line.split()[0] for line in output.splitlines()] == ["prefill", "router", "proxy"]


@pytest.mark.parametrize(
    ("plain", "pair", "transfer", "problem"),
    [
        (RIGHT, RIGHT, TRANSFER, None),
        (RIGHT, WRONG, TRANSFER, "differs"),
        (RIGHT, RIGHT, None, "no transfer"),
        (RIGHT, LOST, TRANSFER, "HTTP 500"),
        (LOST, RIGHT, TRANSFER, "plain server failed"),
    ],
)
def test_only_an_equal_answer_with_a_transfer_counts(
    plain: Answer, pair: Answer, transfer: Transfer | None, problem: str | None
) -> None:
    found = Comparison(plain, pair, transfer).problem
    assert found is None if problem is None else problem in str(found)

# SPDX-License-Identifier: Apache-2.0
"""Pairs of engines: every path, the sender in this process or in another one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.node import Node
from support.processes import NodeProcess

# What the two engines are restricted to, and where the sender lives. `local` is for one process.
WAYS = [
    ("local", "thread"),
    ("shm", "thread"),
    ("cma", "thread"),
    ("tcp", "thread"),
    ("shm", "process"),
    ("cma", "process"),
    ("tcp", "process"),
]


@pytest.fixture(params=WAYS, ids=["-".join(way) for way in WAYS])
def way(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Path, and where the sender lives."""
    return request.param


@pytest.fixture
def path(way: tuple[str, str]) -> str:
    """The only path that both sides may use."""
    return way[0]


@pytest.fixture(scope="session")
def other_process() -> Iterator[NodeProcess]:
    """A process for senders; each test makes its own engines there."""
    with NodeProcess() as process:
        yield process


NewNode = Callable[..., Any]


@pytest.fixture
def new_receiver(path: str) -> Iterator[NewNode]:
    """Makes engines in this process; afterwards nothing may be open in them."""
    yield from _nodes(Node, path)


@pytest.fixture
def new_sender(
    request: pytest.FixtureRequest, way: tuple[str, str], new_receiver: NewNode
) -> Iterator[NewNode]:
    """Makes engines where the senders of this way live; likewise."""
    if way[1] == "thread":
        yield new_receiver
    else:
        yield from _nodes(request.getfixturevalue("other_process").node, way[0])


@pytest.fixture
def sender(new_sender: NewNode) -> Any:
    """The engine whose pages are read."""
    return new_sender()


@pytest.fixture
def receiver(new_receiver: NewNode) -> Any:
    """The engine whose pages are written."""
    return new_receiver()


def _nodes(make: NewNode, path: str) -> Iterator[NewNode]:
    nodes: list[Any] = []

    def new(**config: Any) -> Any:
        nodes.append(make(**{"paths": (path,)} | config))
        return nodes[-1]

    yield new
    leftovers = [node.leftovers(10) for node in nodes]
    for node in nodes:
        node.close()
    assert leftovers == [None] * len(nodes)

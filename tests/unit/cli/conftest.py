# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import threading
from collections.abc import Iterator
from multiprocessing.connection import Connection

import pytest

from mooncake_connector.cli.bench import worker
from mooncake_connector.cli.bench.options import MIB
from mooncake_connector.cli.bench.pair import Launch, Pair
from mooncake_connector.cli.bench.worker import Role

REGION = 4 * MIB


def launch_thread(role: Role, region_bytes: int, connection: Connection) -> threading.Thread:
    """Both sides in this process, where a test can reach into them."""
    thread = threading.Thread(target=worker.serve, args=(role, region_bytes, connection))
    thread.start()
    return thread


@pytest.fixture
def launch() -> Launch:
    """How a pair runs in this process."""
    return launch_thread


@pytest.fixture
def pair() -> Iterator[Pair]:
    with Pair(REGION, timeout=30, launch=launch_thread) as sides:
        yield sides

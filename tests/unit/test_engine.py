# SPDX-License-Identifier: Apache-2.0
"""What the calls refuse before the engine sees it."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest

from mooncake_connector import ConfigError, Engine, Pool, PoolSpec, planes_from_array

PAGES = 8
MEMORY = np.zeros((PAGES, 64), np.uint8)


@pytest.fixture
def engine() -> Iterator[Engine]:
    with Engine() as made:
        yield made


@pytest.fixture
def pool(engine: Engine) -> Pool:
    planes = planes_from_array(MEMORY, "BC", kind="mla")
    return engine.register_pool(PoolSpec("kv", page_size=1, page_count=PAGES, planes=planes))


@pytest.mark.parametrize(
    "page_ids",
    [
        [0, 3],
        (0, 3),
        np.array([0, 3], np.int32),
        np.array([0, 3], np.int64),
        np.array([0, 3], np.uint16),
        np.array([0, 9, 3, 9], np.int32)[::2],
    ],
)
def test_page_ids_of_any_whole_type_are_taken(engine: Engine, pool: Pool, page_ids: object) -> None:
    send = engine.send(b"tag")
    send.append(pool, page_ids)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("page_ids", "message"),
    [
        ([PAGES], "page 8 is not one of the 8 pages"),
        ([-1], "page -1 is not one of"),
        ([2**32 + 5], "page 4294967301"),
        ([2**70], "whole numbers"),
        (np.array([2**32 + 5]), "page 4294967301"),
        (np.array([2**63 + 5], np.uint64), "page 9223372036854775813"),
        (np.array([1.0]), "whole numbers.*float64"),
        ([0.5], "whole numbers.*float64"),
        (["1"], "whole numbers"),
        (np.array([True]), "whole numbers.*bool"),
    ],
)
def test_what_is_no_page_id_is_refused(
    engine: Engine, pool: Pool, page_ids: object, message: str
) -> None:
    send = engine.send(b"tag")
    with pytest.raises(ConfigError, match=message):
        send.append(pool, page_ids)  # type: ignore[arg-type]


WAITS = """
import mooncake_connector, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs begin without it
engine = mooncake_connector.Engine()
send = engine.send(b"tag")
try:
    print("waiting", flush=True)
    send.wait(600)
except KeyboardInterrupt:
    sys.exit(42)
"""


def test_ctrl_c_ends_a_wait() -> None:
    with subprocess.Popen([sys.executable, "-c", WAITS], stdout=subprocess.PIPE) as waiting:
        assert waiting.stdout is not None
        assert waiting.stdout.readline() == b"waiting\n"
        waiting.send_signal(signal.SIGINT)
        try:
            assert waiting.wait(60) == 42
        finally:
            waiting.kill()

# SPDX-License-Identifier: Apache-2.0
"""What the calls refuse before the engine sees it."""

from __future__ import annotations

import math
import mmap
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from mooncake_connector import (
    ConfigError,
    Engine,
    EngineConfig,
    LayoutMismatch,
    MooncakeConnectorError,
    Pool,
    PoolSpec,
    Send,
    planes_from_array,
)

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


class Wrong(NamedTuple):
    """A call that cannot be meant, and what its refusal has to say."""

    call: Callable[[Engine, Pool], object]
    message: str


WRONG = {
    "text as tag": Wrong(lambda e, _: e.send("tag"), r"tag='tag' must be bytes.*b'tag'"),  # type: ignore[arg-type]
    "text as a recv's tag": Wrong(
        lambda e, p: e.recv(e.address, "tag", [(p, [0])], tokens=1),  # type: ignore[arg-type]
        "must be bytes",
    ),
    "empty tag": Wrong(lambda e, _: e.send(b""), "1 to 256 bytes"),
    "negative deadline": Wrong(lambda e, _: e.send(b"tag", -1), "deadline=-1"),
    "no number as deadline": Wrong(lambda e, _: e.send(b"tag", math.nan), "deadline=nan"),
    "negative deadline of a recv": Wrong(
        lambda e, p: e.recv(e.address, b"tag", [(p, [0])], tokens=1, deadline=-1), "deadline=-1"
    ),
    "no number as timeout": Wrong(lambda e, _: e.send(b"tag").wait(math.nan), "timeout=nan"),
    "fewer than no tokens": Wrong(lambda e, _: e.send(b"tag").mark_ready(-1), "tokens=-1"),
    "a fraction of a token": Wrong(lambda e, _: e.send(b"tag").rewind(0.5), "tokens=0.5"),  # type: ignore[arg-type]
    "too many tokens": Wrong(
        lambda e, p: e.recv(e.address, b"tag", [(p, [0])], tokens=2**32), "tokens=4294967296"
    ),
    "negative first token": Wrong(lambda e, p: e.send(b"tag").append(p, [0], -1), "first_token=-1"),
    "a pair as memory": Wrong(lambda e, _: e.register_memory((0, 10)), "address, nbytes, device"),
    "a sender named twice": Wrong(
        lambda e, p: e.recv([e.address] * 2, b"tag", [(p, [0])], tokens=1), "named twice"
    ),
    "bytes as sender": Wrong(
        lambda e, p: e.recv(b"host:1", b"tag", [(p, [0])], tokens=1),  # type: ignore[arg-type]
        "is not an address",
    ),
    "tokens without parts": Wrong(
        lambda e, _: e.recv(e.address, b"tag", [], tokens=2), "tokens=2, but no parts for them"
    ),
    "a part without its list": Wrong(
        lambda e, p: e.recv(e.address, b"tag", (p, [0]), tokens=1),  # type: ignore[arg-type]
        "is no part; a part is",
    ),
    "a pool's name as pool": Wrong(
        lambda e, _: e.send(b"tag").append("kv", [0]),  # type: ignore[arg-type]
        "'kv' is no pool",
    ),
    "a number as pages": Wrong(
        lambda e, p: e.send(b"tag").append(p, 5),  # type: ignore[arg-type]
        "page ids must be a list",
    ),
    "negative request": Wrong(
        lambda e, p: e.recv(e.address, b"tag", [(p, [0])], tokens=1, request=-1), "request=-1"
    ),
    "negative receiver": Wrong(
        lambda e, p: e.recv(e.address, b"tag", [(p, [0])], tokens=1, receiver_index=-1),
        "receiver_index=-1",
    ),
    "rows of a pool twice": Wrong(
        lambda e, p: e.send(b"tag").finish(rows=[(p, [1]), (p, [2])]), "'kv' has two parts"
    ),
    "a device's name": Wrong(lambda e, _: e.register_memory((64, 8, "cuda:0")), "device='cuda:0'"),
    "a negative address": Wrong(lambda e, _: e.register_memory((-5, 8, None)), "address=-5"),
    "fractions as lengths": Wrong(
        lambda e, _: e.write(e.address, [64], [64], np.array([8.9])),  # type: ignore[arg-type]
        "lengths must be whole numbers",
    ),
    "negative lengths": Wrong(
        lambda e, _: e.read(e.address, [64, 64], [64, 64], [8, -8]),  # type: ignore[arg-type]
        r"lengths\[1\] = -8 is negative",
    ),
    "options as a dictionary": Wrong(
        lambda *_: Engine({"host": "127.0.0.1"}),  # type: ignore[arg-type]
        "must be an EngineConfig, not dict",
    ),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG.keys())
def test_what_cannot_be_meant_is_refused(engine: Engine, pool: Pool, wrong: Wrong) -> None:
    with pytest.raises(ConfigError, match=wrong.message):
        wrong.call(engine, pool)


@pytest.mark.parametrize(
    "call",
    [
        lambda send, pool: send.append(pool, [1]),
        lambda send, _: send.mark_ready(1),
        lambda send, _: send.rewind(0),
        lambda send, _: send.finish(),
    ],
    ids=["append", "mark_ready", "rewind", "finish"],
)
def test_a_finished_send_does_not_grow(
    engine: Engine, pool: Pool, call: Callable[[Send, Pool], None]
) -> None:
    send = engine.send(b"tag")
    send.finish()
    with pytest.raises(ConfigError, match="is finished"):
        call(send, pool)
    send.abort("that, always")


def test_a_pool_of_another_engine_is_refused(engine: Engine, pool: Pool) -> None:
    with Engine() as other:
        twin = other.register_pool(pool.spec)
        for call in (
            lambda: engine.send(b"tag").append(twin, [0]),
            lambda: engine.send(b"tag").finish(windows=[(twin, [0], 0)]),
            lambda: engine.send(b"tag").finish(rows=[(twin, [0])]),
            lambda: engine.recv(other.address, b"tag", [(twin, [0])], tokens=1),
            lambda: engine.recv(other.address, b"tag", [], tokens=0, rows=[(twin, [0])]),
        ):
            with pytest.raises(ConfigError, match="not registered with this engine"):
                call()


def test_a_page_cannot_be_granted_twice(engine: Engine, pool: Pool) -> None:
    with Engine() as other:
        recv = engine.recv(other.address, b"tag", [(pool, [3, 5, 3])], tokens=3)
        error = recv.wait(30).error
    assert isinstance(error, ConfigError)
    assert 'page 3 of pool "kv" twice' in str(error)


def test_a_port_in_use_is_named_once(engine: Engine) -> None:
    port = int(engine.address.rpartition(":")[2])
    with pytest.raises(MooncakeConnectorError) as raised:
        Engine(EngineConfig(port=port))
    assert str(raised.value).count(engine.address) == 1
    assert "choose another port" in str(raised.value)


@pytest.fixture
def socket_folder() -> Iterator[Path]:
    """Shorter than pytest's folders: a Unix socket's name has 107 characters at most."""
    with tempfile.TemporaryDirectory(prefix="mc-") as folder:
        yield Path(folder)


def test_a_folder_for_sockets_that_others_may_enter_is_refused(socket_folder: Path) -> None:
    socket_folder.chmod(0o755)
    with pytest.raises(ConfigError, match="chmod 700"):
        Engine(EngineConfig(ipc_dir=str(socket_folder)))
    socket_folder.chmod(0o700)
    Engine(EngineConfig(ipc_dir=str(socket_folder))).close()


def test_traffic_that_cannot_bypass_the_network_is_counted(
    engine: Engine, socket_folder: Path
) -> None:
    with Engine(EngineConfig(ipc_dir=str(socket_folder))) as other:
        next(socket_folder.iterdir()).unlink()  # as if in a container that does not share it
        assert engine.stats()["same_host_over_tcp"] == 0
        for _ in range(2):
            send = other.send(b"tag")
            send.finish()
            assert engine.recv(other.address, b"tag", [], tokens=0).wait(30).ok
        assert engine.stats()["same_host_over_tcp"] == 1


def test_pools_that_differ_are_named_with_the_difference(engine: Engine, pool: Pool) -> None:
    with Engine() as other:
        planes = planes_from_array(MEMORY.view(np.int16), "BC", kind="mla")
        other.register_pool(PoolSpec("kv", page_size=1, page_count=PAGES, planes=planes))
        send = other.send(b"tag")
        send.finish()
        error = engine.recv(other.address, b"tag", [(pool, [0])], tokens=1).wait(30).error
        assert isinstance(error, LayoutMismatch)
        assert str(error).count('pool "kv"') == 1
        assert "dtype int16" in str(error)
        assert "uint8" in str(error)
        assert send.wait(30).ok, "nobody will come for its pages"


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


def test_rows_of_a_pool_whose_pages_are_sent_are_refused(engine: Engine, pool: Pool) -> None:
    send = engine.send(b"tag")
    send.append(pool, [1])
    with pytest.raises(ConfigError, match="'kv' has two parts"):
        send.finish(rows=[(pool, [2])])


def test_pages_go_on_where_a_rewind_left_off(engine: Engine, pool: Pool) -> None:
    """Also behind a first token that is not 0; and anywhere if nothing is left."""
    size = pool.page_size
    send = engine.send(b"tag")
    send.append(pool, [0, 1, 2], first_token=3)
    send.rewind(3 + size)
    with pytest.raises(ConfigError, match=f"end at token {3 + size}"):
        send.append(pool, [4], first_token=3 + 2 * size)
    send.append(pool, [4], first_token=3 + size)
    send.rewind(0)
    send.append(pool, [5], first_token=7)


def test_registered_buffers_stay_as_they_are(engine: Engine) -> None:
    """A peer may write there until it is unregistered."""
    buffer, mapping = bytearray(4096), mmap.mmap(-1, 4096)
    registered = [engine.register_memory(memory, "rw") for memory in (buffer, mapping)]
    with pytest.raises(BufferError):
        buffer.extend(b"more")
    with pytest.raises(BufferError):
        mapping.close()
    for memory in registered:
        engine.unregister_memory(memory)
    buffer.extend(b"more")
    mapping.close()

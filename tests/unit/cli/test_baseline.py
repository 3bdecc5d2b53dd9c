# SPDX-License-Identifier: Apache-2.0
"""The yardsticks move exactly the bytes of their lists."""

from __future__ import annotations

import mmap
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from mooncake_connector import _baseline

Rows = NDArray[np.uint64]
STREAMS = {
    "vectored": (_baseline.send_vectored, _baseline.receive_vectored),
    "packed": (_baseline.send_packed, _baseline.receive_packed),
}


@dataclass
class Scattered:
    """Bytes in two memories, cut and ordered differently on each side."""

    source: NDArray[np.uint8]
    destination: NDArray[np.uint8]
    source_rows: Rows
    destination_rows: Rows

    def check(self) -> None:
        """The n-th byte of one list is the n-th of the other; nothing else was written."""
        sent = gather(self.source, self.source_rows)
        assert np.array_equal(gather(self.destination, self.destination_rows), sent)
        assert np.count_nonzero(self.destination) == len(sent)


def gather(memory: NDArray[np.uint8], rows: Rows) -> NDArray[np.uint8]:
    starts = rows[:, 0].astype(np.int64) - memory.ctypes.data
    parts = [memory[s : s + int(n)] for s, n in zip(starts, rows[:, 1], strict=True)]
    return np.concatenate(parts)


def cut(rng: np.random.Generator, memory: NDArray[np.uint8], total: int, mean: int) -> Rows:
    """`total` bytes of `memory` as segments in random order, some of them empty."""
    lengths = rng.integers(0, 2 * mean, 2 * total // mean + 2)
    lengths = lengths[: int(np.searchsorted(np.cumsum(lengths), total)) + 1]
    lengths[-1] -= lengths.sum() - total
    order = rng.permutation(len(lengths))
    starts = np.empty_like(lengths)
    gaps = np.arange(len(lengths))  # a byte between neighbours, to see what writes too much
    starts[order] = np.cumsum(lengths[order]) - lengths[order] + gaps
    assert starts.max() + mean * 2 <= len(memory)
    return np.column_stack((memory.ctypes.data + starts, lengths)).astype(np.uint64)


@pytest.fixture(params=[(1, 1), (100_000, 7), (3_000_000, 900), (9_000_000, 300_000)])
def scattered(request: pytest.FixtureRequest) -> Scattered:
    """Fewer and more segments than a call takes vectors; shorter and longer than a buffer."""
    total, mean = request.param
    rng = np.random.default_rng(total)
    source = rng.integers(1, 256, 2 * total + 4 * mean + 64, dtype=np.uint8)
    destination = np.zeros_like(source)
    return Scattered(
        source,
        destination,
        cut(rng, source, total, mean),
        cut(rng, destination, total, mean + 3 if mean > 1 else 1),
    )


@pytest.fixture
def connection() -> Iterator[tuple[socket.socket, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = socket.create_connection(listener.getsockname())
        other, _ = listener.accept()
    for end in (one, other):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 20, 0))
    with one, other:
        yield one, other


def together(send: Callable[[], None], receive: Callable[[], None]) -> None:
    failures: list[BaseException] = []

    def guarded() -> None:
        try:
            send()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=guarded)
    thread.start()
    try:
        receive()
    finally:
        thread.join()
    assert not failures


def spans_of(scattered: Scattered) -> Rows:
    """The spans that both sides' cuts have in common."""
    ends = [np.cumsum(rows[:, 1]) for rows in (scattered.source_rows, scattered.destination_rows)]
    borders = np.unique(np.concatenate(([np.uint64(0)], *ends)))
    starts, lengths = borders[:-1], np.diff(borders)
    columns = []
    for rows, end in zip((scattered.source_rows, scattered.destination_rows), ends, strict=True):
        index = np.searchsorted(end, starts, side="right")
        columns.append(rows[index, 0] + starts - (end[index] - rows[index, 1]))
    return np.column_stack((*columns, lengths))


def test_copy(scattered: Scattered) -> None:
    _baseline.copy(spans_of(scattered))
    scattered.check()


def test_write_process_of_this_process(scattered: Scattered) -> None:
    _baseline.write_process(os.getpid(), spans_of(scattered))
    scattered.check()


def test_write_process_of_another_process() -> None:
    program = (
        "import numpy, sys\n"
        "a = numpy.zeros(10, dtype=numpy.uint8)\n"
        "print(a.ctypes.data, flush=True)\n"
        "sys.stdin.readline()\n"
        "print(*a, flush=True)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        address = int(child.stdout.readline())
        mine = np.arange(1, 11, dtype=np.uint8)
        rows = [[mine.ctypes.data + 4, address, 6], [mine.ctypes.data, address + 8, 1]]
        _baseline.write_process(child.pid, np.array(rows, dtype=np.uint64))
        output, _ = child.communicate("\n")
    assert output.split() == ["5", "6", "7", "8", "9", "10", "0", "0", "1", "0"]


def test_write_process_names_what_is_wrong() -> None:
    row = np.array([[1, 1, 1]], dtype=np.uint64)
    with pytest.raises(ProcessLookupError, match="process_vm_writev"):
        _baseline.write_process(2**22 + 1, row)
    with pytest.raises(OSError, match="Bad address"):
        _baseline.write_process(os.getpid(), row)


@pytest.mark.parametrize("way", STREAMS)
def test_stream(
    way: str, scattered: Scattered, connection: tuple[socket.socket, socket.socket]
) -> None:
    send, receive = STREAMS[way]
    together(
        lambda: send(connection[0].fileno(), scattered.source_rows),
        lambda: receive(connection[1].fileno(), scattered.destination_rows),
    )
    scattered.check()


@pytest.mark.parametrize("way", STREAMS)
def test_a_stream_that_ends_early_is_an_error(
    way: str, connection: tuple[socket.socket, socket.socket]
) -> None:
    memory = np.zeros(100, dtype=np.uint8)
    rows = np.array([[memory.ctypes.data, 100]], dtype=np.uint64)
    connection[0].sendall(b"x" * 99)
    connection[0].close()
    with pytest.raises(ConnectionResetError, match="closed the stream early"):
        STREAMS[way][1](connection[1].fileno(), rows)


@pytest.mark.parametrize("way", STREAMS)
def test_a_stream_that_stalls_times_out(
    way: str, connection: tuple[socket.socket, socket.socket]
) -> None:
    limit = struct.pack("ll", 0, 20_000)
    connection[1].setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
    memory = np.zeros(100, dtype=np.uint8)
    rows = np.array([[memory.ctypes.data, 100]], dtype=np.uint64)
    with pytest.raises(TimeoutError):
        STREAMS[way][1](connection[1].fileno(), rows)


def test_ring_several_times(scattered: Scattered) -> None:
    memory = np.frombuffer(mmap.mmap(-1, _baseline.RING_BYTES), dtype=np.uint8)
    for _ in range(3):
        scattered.destination[:] = 0
        together(
            lambda: _baseline.send_through_ring(memory, scattered.source_rows),
            lambda: _baseline.receive_through_ring(memory, scattered.destination_rows),
        )
        scattered.check()


def test_arrays_of_another_kind_are_refused() -> None:
    rows = np.zeros((4, 3), dtype=np.uint64)
    wrong = [rows.astype(np.int64), rows[:, :2], rows[::2], rows.ravel()]
    for array in wrong:
        with pytest.raises(TypeError):
            _baseline.copy(array)  # type: ignore[arg-type]


def test_a_ring_in_too_little_memory_is_refused() -> None:
    rows = np.zeros((0, 2), dtype=np.uint64)
    with pytest.raises(ValueError, match="smaller than RING_BYTES"):
        _baseline.send_through_ring(np.zeros(10, dtype=np.uint8), rows)

# SPDX-License-Identifier: Apache-2.0
"""The yardsticks: plain code that moves the same lists of spans."""

from __future__ import annotations

import abc
import mmap
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle
from typing import ClassVar

import numpy as np

from mooncake_connector import _baseline
from mooncake_connector.cli.bench.ends import End
from mooncake_connector.cli.bench.region import Region
from mooncake_connector.cli.bench.worker import Worker
from mooncake_connector.cli.bench.workload import Addresses, Workload

PATIENCE = 30  # seconds without progress after which a stream gives up
NOTHING: Addresses = np.empty((0, 3), dtype=np.uint64)

Move = Callable[[int, Addresses], None]


class _Listed(End):
    """An end that works from a list of addresses for each transfer."""

    _lists: list[Addresses]
    _turn: Iterator[Addresses]

    @abc.abstractmethod
    def addresses(self, transfer: Workload) -> Addresses:
        """The list of one transfer."""

    def load(self, transfers: Sequence[Workload]) -> None:
        self._lists = [self.addresses(transfer) for transfer in transfers]
        self._turn = cycle(self._lists)


def _timed(call: Callable[[Addresses], object], rows: Addresses, count: int) -> list[float]:
    """Seconds of each of ``count`` calls with one row, the rows taken in turn."""
    seconds = []
    for i in range(count):
        row = rows[i % len(rows) :][:1]
        began = time.perf_counter()
        call(row)
        seconds.append(time.perf_counter() - began)
    return seconds


class _Memcpy(_Listed):
    """Copies within the sender's process, on one thread; the receiver has nothing to do."""

    def addresses(self, transfer: Workload) -> Addresses:
        if not self.sending:
            return NOTHING
        return transfer.spans(self.worker.region.address, self.worker.shadow.address)

    def transfer(self) -> None:
        _baseline.copy(next(self._turn))

    def latencies(self, count: int) -> list[float]:
        return _timed(_baseline.copy, self._lists[0], count) if self.sending else []

    def destination(self) -> Region | None:
        return self.worker.shadow if self.sending else None


class _ProcessVmWritev(_Listed):
    """The sender writes into the receiver's memory with process_vm_writev."""

    _peer: tuple[int, int]  # process id, address of its region

    def offer(self) -> tuple[int, int]:
        return os.getpid(), self.worker.region.address

    def connect(self, offer: tuple[int, int]) -> None:
        self._peer = offer

    def addresses(self, transfer: Workload) -> Addresses:
        if not self.sending:
            return NOTHING
        return transfer.spans(self.worker.region.address, self._peer[1])

    def transfer(self) -> None:
        self._write(next(self._turn))

    def latencies(self, count: int) -> list[float]:
        return _timed(self._write, self._lists[0], count) if self.sending else []

    def _write(self, spans: Addresses) -> None:
        _baseline.write_process(self._peer[0], spans)


class _Asked(_Listed):
    """An end that knows its own addresses only, and can move a page that the receiver asks for."""

    @abc.abstractmethod
    def move(self, segments: Addresses) -> None:
        """Sends or receives these bytes."""

    @abc.abstractmethod
    def request(self) -> None:
        """Asks for the next page, or waits until it is asked for."""

    def addresses(self, transfer: Workload) -> Addresses:
        pages = transfer.source if self.sending else transfer.destination
        return transfer.segments(pages, self.worker.region.address)

    def transfer(self) -> None:
        self.move(next(self._turn))

    def latencies(self, count: int) -> list[float]:
        seconds = _timed(self._request_and_move, self._lists[0], count)
        return [] if self.sending else seconds

    def _request_and_move(self, segments: Addresses) -> None:
        self.request()
        self.move(segments)


class _TcpStream(_Asked):
    """One blocking TCP connection over loopback."""

    _ways: ClassVar[tuple[Move, Move]]  # to send and to receive
    _socket: socket.socket

    def __init__(self, worker: Worker) -> None:
        super().__init__(worker)
        self._listener = None if self.sending else socket.create_server(("127.0.0.1", 0))

    def offer(self) -> tuple[str, int] | None:
        return None if self._listener is None else self._listener.getsockname()

    def connect(self, offer: tuple[str, int]) -> None:
        if self._listener is None:
            self._socket = socket.create_connection(offer)
        else:
            self._listener.settimeout(PATIENCE)
            self._socket = self._listener.accept()[0]
            self._socket.setblocking(True)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for limit in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            self._socket.setsockopt(socket.SOL_SOCKET, limit, struct.pack("ll", PATIENCE, 0))

    def request(self) -> None:
        if not self.sending:
            self._socket.sendall(b"?")
        elif not self._socket.recv(1):
            raise ConnectionResetError("the receiver closed the stream early")

    def move(self, segments: Addresses) -> None:
        send, receive = self._ways
        (send if self.sending else receive)(self._socket.fileno(), segments)

    def close(self) -> None:
        if self._listener is not None:
            self._listener.close()
        if hasattr(self, "_socket"):
            self._socket.close()


class _TcpWritev(_TcpStream):
    """sendmsg and readv, 1,024 vectors a call, straight from page to page."""

    _ways = (_baseline.send_vectored, _baseline.receive_vectored)


class _TcpPacked(_TcpStream):
    """Gathered into 256 KiB, sent, received, scattered."""

    _ways = (_baseline.send_packed, _baseline.receive_packed)


class _ShmRing(_Asked):
    """A bare ring of 256 KiB slots in shared memory, and one the other way for requests."""

    def __init__(self, worker: Worker) -> None:
        super().__init__(worker)
        self._file = -1
        self._word = np.zeros(1, dtype=np.uint64)
        self._request = np.array([[self._word.ctypes.data, self._word.nbytes]], dtype=np.uint64)
        if self.sending:
            self._file = os.memfd_create("bench-ring", os.MFD_CLOEXEC)
            os.ftruncate(self._file, 2 * _baseline.RING_BYTES)
            self._map(self._file)

    def offer(self) -> str | None:
        return f"/proc/{os.getpid()}/fd/{self._file}" if self.sending else None

    def connect(self, offer: str | None) -> None:
        if offer is not None:
            with open(offer, "r+b") as file:
                self._map(file.fileno())

    def request(self) -> None:
        move = _baseline.receive_through_ring if self.sending else _baseline.send_through_ring
        move(self._requests, self._request)

    def move(self, segments: Addresses) -> None:
        move = _baseline.send_through_ring if self.sending else _baseline.receive_through_ring
        move(self._pages, segments)

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)

    def _map(self, file: int) -> None:
        size = _baseline.RING_BYTES
        memory = np.frombuffer(mmap.mmap(file, 2 * size), dtype=np.uint8)
        self._pages, self._requests = memory[:size], memory[size:]


BASELINES: dict[str, type[End]] = {
    "memcpy": _Memcpy,
    "process_vm_writev": _ProcessVmWritev,
    "shm ring": _ShmRing,
    "tcp writev": _TcpWritev,
    "tcp packed": _TcpPacked,
}

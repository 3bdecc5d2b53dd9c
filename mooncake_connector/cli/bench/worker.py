# SPDX-License-Identifier: Apache-2.0
"""One of the two processes between which the benchmark moves pages."""

from __future__ import annotations

import contextlib
import enum
import os
import resource
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from mooncake_connector.cli.bench.region import Region
from mooncake_connector.cli.bench.workload import Workload, WorkloadSpec

if TYPE_CHECKING:
    from mooncake_connector.cli.bench.ends import End


class Role(enum.StrEnum):
    """Which side a process is: prefill sends, decode receives."""

    SENDER = "sender"
    RECEIVER = "receiver"


@dataclass(frozen=True)
class Failure:
    """An exception on its way to the parent."""

    kind: str
    message: str
    trace: str


@dataclass(frozen=True)
class Measurement:
    """What one side saw of a number of transfers. Instants are of the machine's monotonic clock."""

    began: float
    ended: float
    cpu_seconds: float


class Worker:
    """The state of one side. Passed to every function that the parent runs there."""

    def __init__(self, role: Role, region_bytes: int) -> None:
        self.role = role
        self.region = Region(region_bytes)
        if role is Role.SENDER:
            self.region.fill()
        self.ends: dict[str, End] = {}
        self.workload: Workload | None = None
        self.transfers: list[Workload] = []

    @cached_property
    def shadow(self) -> Region:
        """Where the sender copies to when it copies within its own process."""
        return Region(len(self.region.bytes))


def serve(role: Role, region_bytes: int, parent: Connection) -> None:
    """Runs what the parent asks for, one function after the other, until it hangs up."""
    worker = Worker(role, region_bytes)
    # Whether it waits for an order or for us, a parent that is interrupted hangs up.
    with contextlib.suppress(EOFError, ConnectionResetError, BrokenPipeError):
        parent.send(None)
        while True:
            function, arguments = parent.recv()
            parent.send(_run(function, worker, arguments))
    for end in worker.ends.values():
        end.close()


def _run(function: Callable[..., Any], worker: Worker, arguments: tuple[Any, ...]) -> Any:
    try:
        return function(worker, *arguments)
    except Exception as error:
        return Failure(type(error).__name__, str(error), traceback.format_exc())


def main(role: Role, region_bytes: int, parent: Connection) -> None:
    """What a child process runs. Ctrl-C is the parent's to handle: it ends its children."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    serve(role, region_bytes, parent)


def cpu_seconds() -> float:
    """CPU time of all of this process's threads so far, in user mode and in the kernel."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def resident_bytes() -> int:
    """Memory of this process that is resident."""
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def load(worker: Worker, spec: WorkloadSpec) -> int:
    """Makes the next workload; returns the number of spans of its first transfer."""
    worker.workload = Workload.make(spec)
    worker.transfers = worker.workload.divide(spec.transfers)
    for end in worker.ends.values():
        end.load(worker.transfers)
    return len(worker.transfers[0].runs[0])


def transfer(worker: Worker, name: str, count: int) -> Measurement:
    """Makes `count` transfers through one end."""
    end = worker.ends[name]
    cpu_before = cpu_seconds()
    began = time.monotonic()
    for _ in range(count):
        end.transfer()
    return Measurement(began, time.monotonic(), cpu_seconds() - cpu_before)


def poison(worker: Worker, name: str, everything: bool) -> None:
    """Spoils the pages where the workload will land, or all of that memory, if it is here."""
    region, workload = worker.ends[name].destination(), worker.workload
    if region is None or workload is None:
        return
    if everything:
        region.poison()
    else:
        region.poison(workload.destination, workload.block)


def check(worker: Worker, name: str) -> bool:
    """Compares what landed here; whether it is this side where it lands."""
    region, workload = worker.ends[name].destination(), worker.workload
    if region is None or workload is None:
        return False
    region.check(workload)
    return True

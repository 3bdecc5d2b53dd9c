# SPDX-License-Identifier: Apache-2.0
"""What the package costs the process that uses it: its import, and each call."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from mooncake_connector.cli.bench.engine_end import PATIENCE, engine_end
from mooncake_connector.cli.bench.methods import engine_method, opened
from mooncake_connector.cli.bench.options import Options
from mooncake_connector.cli.bench.pair import Pair
from mooncake_connector.cli.bench.results import CallResult, StartupResult, percentile
from mooncake_connector.cli.bench.worker import Role, Worker
from mooncake_connector.cli.bench.workload import WorkloadSpec
from mooncake_connector.errors import MooncakeConnectorError

T = TypeVar("T")
Calls = dict[str, list[float]]

PAGES = (1, 64, 1024, 4096)  # of one call
COUNT = 200  # calls of each kind
BLOCK = 256
STARTS = 6

IMPORT = """
import os, time
import numpy
threads = len(os.listdir("/proc/self/task"))
began = time.perf_counter()
import mooncake_connector
print(time.perf_counter() - began, len(os.listdir("/proc/self/task")) - threads)
"""


class Timed:
    """Makes calls and notes how long each took, by the call's name."""

    def __init__(self) -> None:
        self.seconds: Calls = {}

    def __call__(
        self, call: str, function: Callable[..., T], *arguments: object, **options: object
    ) -> T:
        """Returns what the function does."""
        began = time.perf_counter()
        result = function(*arguments, **options)
        self.seconds.setdefault(call, []).append(time.perf_counter() - began)
        return result


def steps(options: Options) -> int:
    """How often ``calls`` calls ``advance``."""
    return len(page_counts(options))


def page_counts(options: Options) -> list[int]:
    """The page counts that fit twice into the region."""
    return [pages for pages in PAGES if 2 * pages * BLOCK <= options.region]


def calls(pair: Pair, options: Options, advance: Callable[[str], None]) -> list[CallResult]:
    """Times each call of the engine and its transfers, never at both sides at once."""
    name = engine_method(options.paths[0])
    results = []
    for pages in page_counts(options):
        advance(f"calls with {pages} pages")
        spec = WorkloadSpec(BLOCK, "random", pages, options.region // BLOCK)
        with opened(pair, [name], spec) as ways:
            if name in ways.unavailable:
                return []
            # One side at a time: what is timed does not compete with the other process.
            seconds = {role: pair.call(role, _timed_starts, name, COUNT) for role in Role}
            pair.call(Role.SENDER, _finish, name)
            for role in Role:
                seconds[role] |= pair.call(role, _timed_retractions, name, COUNT)
            shared = pair.call(Role.SENDER, _share, name, pages)
            seconds[Role.RECEIVER] |= pair.call(
                Role.RECEIVER, _timed_one_sided, name, shared, pages, COUNT
            )
        for role, calls_of_side in seconds.items():
            results += [
                CallResult(
                    call, role, pages, percentile(times, 0.5), percentile(times, 0.99), len(times)
                )
                for call, times in calls_of_side.items()
            ]
    return results


def startup(advance: Callable[[str], None]) -> StartupResult:
    """Imports the package in fresh interpreters; the first one fills the file cache.

    Raises:
        MooncakeConnectorError: the import fails.
    """
    advance("import")
    seconds, threads = [], 0
    for _ in range(STARTS):
        done = subprocess.run(
            [sys.executable, "-P", "-c", IMPORT], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise MooncakeConnectorError(f"import mooncake_connector fails: {done.stderr}")
        elapsed, started = done.stdout.split()
        seconds.append(float(elapsed))
        threads = max(threads, int(started))
    return StartupResult(seconds[1:], threads)


def _timed_starts(worker: Worker, name: str, count: int) -> Calls:
    """Starts `count` transfers; a receiver finishes each before the next."""
    end, timed = engine_end(worker, name), Timed()
    for tag in end.next_tags(count):
        transfer = end.start(tag, end.pages, timed)
        if end.sending:
            end.started.append(transfer)
        else:
            end.finish(transfer)
        timed("poll", end.engine.poll)
    return timed.seconds


def _timed_retractions(worker: Worker, name: str, count: int) -> Calls:
    """Starts `count` transfers and takes each back before the next."""
    end, timed = engine_end(worker, name), Timed()
    for tag in end.next_tags(count):
        if end.sending:
            send = end.open(tag, end.pages)
            timed("matched", send.matched)
            timed("rewind", send.rewind, 0)
            timed("abort", send.abort, "it was only to be measured")
            send.wait(PATIENCE)
        else:
            recv = end.start(tag, end.pages)
            timed("cancel", recv.cancel)
            recv.wait(PATIENCE)
        end.engine.poll()
    return timed.seconds


def _share(worker: Worker, name: str, pages: int) -> int:
    """Lets the other side read and write memory for so many pages; returns its address."""
    scratch = np.zeros(pages * BLOCK, np.uint8)
    return engine_end(worker, name).engine.register_memory(scratch, remote="rw").address


def _timed_one_sided(worker: Worker, name: str, shared: int, pages: int, count: int) -> Calls:
    """Writes and reads `count` times so many pages of the memory that the other side shares."""
    end, timed = engine_end(worker, name), Timed()
    engine, address = end.engine, end.sender_address
    scratch = engine.register_memory(np.zeros(pages * BLOCK, np.uint8)).address
    offsets = np.arange(pages, dtype=np.uint64) * np.uint64(BLOCK)
    here, there = offsets + np.uint64(scratch), offsets[::-1] + np.uint64(shared)
    lengths = np.full(pages, BLOCK, np.uint64)
    for _ in range(count):
        end.finish(timed("write", engine.write, address, here, there, lengths))
        end.finish(timed("read", engine.read, address, there, here, lengths))
    return timed.seconds


def _finish(worker: Worker, name: str) -> None:
    end = engine_end(worker, name)
    while end.started:
        end.finish(end.started.pop())

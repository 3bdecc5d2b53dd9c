# SPDX-License-Identifier: Apache-2.0
"""Transfers into a decode server's cache that a thousand requests have fragmented, without SGLang.

    python pool_churn.py [--page-sizes 1,16,64] [--requests 1000] [--runs 2] [--json FILE]

The decode side is a simulated pool with SGLang's allocator: a request gets pages for its prompt at
once, each running request one more slot per step, and what is given back is sorted in only when the
free list runs short. So at page size 1 the pool becomes a comb: about 3 tokens lie side by side.
The prompts' KV is moved by two engines in two processes, one transfer after the other, and the
engines report seconds, processor time and spans.

The layers' memory would be 16 GiB at each side; `--memory-layers` of them exist, and the others lie
over these. What is read and written, and how scattered it is, is the same; some of it is nearer.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from mooncake_connector import Engine, EngineConfig, Plane, Pool, PoolSpec

Pages = npt.NDArray[np.int32]

POOL_TOKENS = 262_144
CONCURRENT = 128
PROMPT_TOKENS = 1024
ANSWER_TOKENS = 512
SPREAD = 0.5  # lengths are uniform between this part of the mean and what mirrors it
SOURCE_TOKENS = 16_384
DEADLINE = 120.0


class Allocator:
    """Hands out pages as SGLang's decode server does."""

    def __init__(self, pages: int) -> None:
        self._free = np.arange(1, pages, dtype=np.int32)
        self._released: list[Pages] = []

    def take(self, count: int) -> Pages:
        """The first free pages, in the free list's order."""
        if count > len(self._free):
            self._free = np.sort(np.concatenate([self._free, *self._released]))
            self._released = []
        taken, self._free = self._free[:count], self._free[count:]
        return taken

    def give_back(self, pages: Pages) -> None:
        """Not used again before the free list runs short."""
        self._released.append(pages)


@dataclass
class _Running:
    pages: list[Pages]
    tokens: int
    steps_left: int


def requests(page_size: int, count: int, seed: int) -> Iterator[Pages]:
    """The pages of each request's prompt, from a pool in which the others run and end."""
    rng = np.random.default_rng(seed)
    allocator = Allocator(POOL_TOKENS // page_size)
    running: deque[_Running] = deque()

    def length(mean: int) -> int:
        return int(rng.integers(int(mean * SPREAD), int(mean * (2 - SPREAD))))

    for _ in range(count):
        while len(running) >= CONCURRENT:
            _step(running, allocator, page_size)
        tokens = length(PROMPT_TOKENS)
        pages = allocator.take(-(-tokens // page_size))
        running.append(_Running([pages], tokens, length(ANSWER_TOKENS)))
        yield pages


def _step(running: deque[_Running], allocator: Allocator, page_size: int) -> None:
    for _ in range(len(running)):
        request = running.popleft()
        if request.tokens % page_size == 0:
            request.pages.append(allocator.take(1))
        request.tokens += 1
        request.steps_left -= 1
        if request.steps_left > 0:
            running.append(request)
        else:
            allocator.give_back(np.concatenate(request.pages))


@dataclass(frozen=True)
class Shape:
    """What a token is made of.

    Attributes:
        layers: each has K and V.
        layer_bytes: of K and V of one token in one layer.
        memory_layers: how many layers have memory of their own.
    """

    layers: int
    layer_bytes: int
    memory_layers: int

    def pool(self, memory: npt.NDArray[np.uint8], tokens: int, page_size: int) -> PoolSpec:
        """Describes memory of shape (memory layers, K and V, tokens, bytes)."""
        half = self.layer_bytes // 2
        planes = [
            Plane(
                address=int(memory[layer % self.memory_layers, part].ctypes.data),
                page_stride=page_size * half,
                token_stride=half,
                head_stride=half,
                element_stride=1,
                heads=1,
                elements=half,
                dtype="uint8",
                layer=layer,
                kind=kind,
            )
            for part, kind in enumerate(("k", "v"))
            for layer in range(self.layers)
        ]
        return PoolSpec("kv", page_size, tokens // page_size, planes)

    def memory(self, tokens: int) -> npt.NDArray[np.uint8]:
        """Memory that is there: every page of it was written once."""
        return np.ones((self.memory_layers, 2, tokens, self.layer_bytes // 2), np.uint8)


@dataclass
class Run:
    """What one run of all requests took."""

    page_size: int
    run: int
    requests: int
    tokens_per_run: float
    spans_per_request: float
    mib_per_request: float
    milliseconds_per_request: float
    gigabytes_per_second: float
    cpu_seconds_per_gigabyte: float
    path: str


def serve(shape: Shape, page_size: int, config: EngineConfig, pipe: Connection) -> None:
    """The prefill side: offers as many pages as it is told, from a pool that is not fragmented."""
    memory = shape.memory(SOURCE_TOKENS)
    with Engine(config) as engine:
        pool = engine.register_pool(shape.pool(memory, SOURCE_TOKENS, page_size))
        pipe.send(engine.address)
        while (order := pipe.recv()) is not None:
            tag, pages = order
            if tag is None:
                pipe.send(time.process_time())
                continue
            send = engine.send(tag, deadline=DEADLINE)
            send.append(pool, np.arange(pages, dtype=np.int32))
            send.mark_ready(pages * page_size)
            send.finish()
            engine.poll()


def measure(shape: Shape, page_size: int, count: int, runs: int, config: EngineConfig) -> list[Run]:
    """Moves all requests' KV, several times over the same pool."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    sender = context.Process(target=serve, args=(shape, page_size, config, theirs), daemon=True)
    sender.start()
    memory = shape.memory(POOL_TOKENS)
    stream = requests(page_size, count * runs, seed=page_size)
    try:
        with Engine(config) as engine:
            pool = engine.register_pool(shape.pool(memory, POOL_TOKENS, page_size))
            address = ours.recv()
            results = []
            for run in range(runs):
                destinations = [next(stream) for _ in range(count)]
                results.append(
                    _one_run(
                        engine, pool, ours, address=address, destinations=destinations, run=run
                    )
                )
            ours.send(None)
    finally:
        sender.join(30)
        if sender.is_alive():
            sender.kill()
    return results


def _one_run(
    engine: Engine,
    pool: Pool,
    pipe: Connection,
    *,
    address: str,
    destinations: Sequence[Pages],
    run: int,
) -> Run:
    def processor_time() -> float:
        pipe.send((None, 0))
        other: float = pipe.recv()
        return other + time.process_time()

    page_size = pool.page_size
    spans = nbytes = runs = tokens = 0
    seconds = 0.0
    path = None
    began = processor_time()
    for number, pages in enumerate(destinations):
        tag = f"{run}/{number}".encode()
        pipe.send((tag, len(pages)))
        recv = engine.recv(
            address,
            tag,
            [(pool, pages)],
            tokens=len(pages) * page_size,
            deadline=DEADLINE,
        )
        done = recv.wait(DEADLINE)
        engine.poll()
        if done.error is not None:
            raise done.error
        seconds += done.seconds
        spans += done.spans
        nbytes += done.bytes
        path = done.path
        runs += 1 + int(np.count_nonzero(np.diff(pages) != 1))
        tokens += len(pages) * page_size
    processor = processor_time() - began
    count = len(destinations)
    return Run(
        page_size=page_size,
        run=run + 1,
        requests=count,
        tokens_per_run=tokens / runs,
        spans_per_request=spans / count,
        mib_per_request=nbytes / count / 2**20,
        milliseconds_per_request=seconds / count * 1e3,
        gigabytes_per_second=nbytes / seconds / 1e9,
        cpu_seconds_per_gigabyte=processor / (nbytes / 1e9),
        path=path or "-",
    )


def show(console: Console, results: Sequence[Run]) -> None:
    """Prints all runs."""
    table = Table(title="into a simulated decode pool", title_justify="left")
    for heading in (
        *("page size", "run", "requests", "tokens/run", "spans/request", "MiB/request"),
        *("ms/request", "GB/s", "CPU-s/GB", "path"),
    ):
        table.add_column(heading, justify="right")
    for one in results:
        table.add_row(
            *(str(one.page_size), str(one.run), str(one.requests), f"{one.tokens_per_run:,.1f}"),
            *(f"{one.spans_per_request:,.0f}", f"{one.mib_per_request:,.1f}"),
            *(f"{one.milliseconds_per_request:,.2f}", f"{one.gigabytes_per_second:,.2f}"),
            *(f"{one.cpu_seconds_per_gigabyte:,.2f}", one.path),
        )
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--page-sizes", default="1,16,64", help="separated by commas")
    parser.add_argument("--requests", type=int, default=1000, help="of each run")
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--layer-bytes", type=int, default=2048, help="of one token in one layer")
    parser.add_argument("--memory-layers", type=int, default=4, help="with memory of their own")
    parser.add_argument("--paths", help="restricts the paths, for example tcp")
    parser.add_argument("--json", type=Path, help="writes the figures there")
    options = parser.parse_args()
    shape = Shape(options.layers, options.layer_bytes, options.memory_layers)
    config = EngineConfig(paths=tuple(options.paths.split(",")) if options.paths else None)
    # Where there is no terminal, nothing says how wide the table may be.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 150)
    results: list[Run] = []
    for page_size in map(int, options.page_sizes.split(",")):
        results += measure(shape, page_size, options.requests, options.runs, config)
    show(console, results)
    if options.json:
        figures = {
            "cores": os.cpu_count(),
            "shape": asdict(shape),
            "runs": list(map(asdict, results)),
        }
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()

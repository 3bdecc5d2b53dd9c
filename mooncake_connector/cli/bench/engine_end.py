# SPDX-License-Identifier: Apache-2.0
"""An end that moves pages with the engine, the way a serving engine uses it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import count as counter
from itertools import cycle
from typing import TYPE_CHECKING, Any

from mooncake_connector import Engine, EngineConfig, Plane, PoolSpec
from mooncake_connector.cli.bench.ends import End
from mooncake_connector.cli.bench.worker import Worker
from mooncake_connector.cli.bench.workload import PageIds, Workload

if TYPE_CHECKING:
    from mooncake_connector import Completion, Pool, Send, Transfer

DEADLINE = 30.0  # seconds that a transfer may take
PATIENCE = DEADLINE + 5.0  # seconds after which the engine itself must be stuck
AUTO = "auto"

Call = Callable[..., Any]


def _plainly(_name: str, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    return function(*arguments, **options)


class EngineEnd(End):
    """A send or a recv of whole pages: one token a page, so that page ids are token numbers."""

    def __init__(self, worker: Worker, path: str) -> None:
        super().__init__(worker)
        paths = None if path == AUTO else (path,)
        self.engine = Engine(EngineConfig(host="127.0.0.1", port=0, paths=paths))
        self.sender_address = self.engine.address
        self.spans_moved = 0
        self.path_taken: str | None = None
        self._tags = counter()
        self._pool: Pool | None = None
        self._lists: list[PageIds] = []
        self._announced: list[tuple[int, PageIds]] = []
        self.started: list[Transfer] = []

    def offer(self) -> str:
        """The engine's address."""
        return self.engine.address

    def connect(self, offer: str) -> None:
        """Remembers the sender's address; the engine connects at the first recv."""
        if not self.sending:
            self.sender_address = offer

    def load(self, transfers: Sequence[Workload]) -> None:
        """Registers the region as pages of the workload's size."""
        self._lists = [part.source if self.sending else part.destination for part in transfers]
        self._turn = cycle(self._lists)
        if self._pool is None:
            self._pool = self.engine.register_pool(_whole_pages(self.worker, transfers[0].block))

    @property
    def pages(self) -> PageIds:
        """This side's pages of the first transfer."""
        return self._lists[0]

    def start(self, tag: int, pages: PageIds, call: Call = _plainly) -> Transfer:
        """Starts to send or to receive all these pages under a tag.

        Args:
            tag: one that the other side uses as well.
            pages: page ids of this side.
            call: makes the engine's calls: gets the name, the function and its arguments.
        """
        if not self.sending:
            name = tag.to_bytes(8, "little")
            parts = [(self._pool, pages)]
            received: Transfer = call(
                "recv", self.engine.recv, self.sender_address, name, parts,
                tokens=len(pages), deadline=DEADLINE,
            )  # fmt: skip
            return received
        send = self.open(tag, pages, call)
        call("finish", send.finish)
        return send

    def open(self, tag: int, pages: PageIds, call: Call = _plainly) -> Send:
        """Opens a send of these pages, all of them ready, and leaves it unfinished."""
        name = tag.to_bytes(8, "little")
        send: Send = call("send", self.engine.send, name, deadline=DEADLINE)
        call("append", send.append, self._pool, pages)
        call("mark_ready", send.mark_ready, len(pages))
        return send

    def finish(self, transfer: Transfer) -> Completion:
        """Waits for a transfer and raises its error, if it has one."""
        completion = transfer.wait(PATIENCE)
        self.engine.poll()  # every completion is queued there as well
        if completion.error is not None:
            raise completion.error
        return completion

    def next_tags(self, count: int) -> list[int]:
        """Tags that neither side has used: both count alike."""
        return [next(self._tags) for _ in range(count)]

    def transfer(self) -> None:
        """Sends or receives the next list of pages as one request."""
        completion = self.finish(self.start(self.next_tags(1)[0], next(self._turn)))
        self.spans_moved, self.path_taken = completion.spans, completion.path

    def announce(self, count: int) -> None:
        """Opens all sends before the first recv, which then times the transfer alone."""
        pages = [self.pages[i % len(self.pages) :][:1] for i in range(count)]
        self._announced = list(zip(self.next_tags(count), pages, strict=True))
        self.started = [self.start(tag, page) for tag, page in self._announced if self.sending]

    def latencies(self, count: int) -> list[float]:
        """Times each recv from its call until it has completed."""
        while self.started:
            self.finish(self.started.pop())
        seconds = []
        for tag, page in [] if self.sending else self._announced:
            began = time.perf_counter()
            completion = self.start(tag, page).wait(PATIENCE)
            seconds.append(time.perf_counter() - began)
            if completion.error is not None:
                raise completion.error
        self.engine.poll()
        return seconds

    def close(self) -> None:
        """Ends the engine and its threads."""
        self.engine.close()


def _whole_pages(worker: Worker, block: int) -> PoolSpec:
    """A side's region as pages of `block` bytes, each of which is one token."""
    plane = Plane(
        address=worker.region.address,
        page_stride=block,
        token_stride=block,
        head_stride=block,
        element_stride=1,
        heads=1,
        elements=block,
        dtype="uint8",
        layer=0,
        kind="mla",
    )
    page_count = len(worker.region.bytes) // block
    return PoolSpec(name="bench", page_size=1, page_count=page_count, planes=[plane])


def engine_end(worker: Worker, name: str) -> EngineEnd:
    """The end of this name, which is an engine's."""
    end = worker.ends[name]
    assert isinstance(end, EngineEnd)
    return end

# SPDX-License-Identifier: Apache-2.0
"""An engine under load that checks every byte, for tests that break what is around it.

A station serves orders, as a prefill server serves its router, and fetches what it ordered from
others, as a decode server does, all the time and in a thread of its own. Faults are done to its
process meanwhile; afterwards its report says what became of each transfer.

Pages that are handed back are wiped or written over at once. So it shows if somebody still writes
to them or still reads from them: in a page that nobody had reason to touch, or in a transfer that
should have been good.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import socket
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mooncake_connector import (
    Completion,
    Engine,
    EngineConfig,
    MooncakeConnectorError,
    TransferAborted,
)
from support.pages import Pages, Shape

# 1 KiB a token, in two layers; K and V together.
SHAPE = Shape(
    axes="LBNHC",
    layers=range(2),
    heads=range(1),
    elements=32,
    page_size=16,
    page_count=1024,
    dtype="float64",
)
_TURN = 0.0005  # seconds between two looks at what has happened
_LARGE_SHARE = 0.02
_PAUSE = 0.02  # after a failure, before the same peer is asked again


@dataclass(frozen=True, kw_only=True)
class Load:
    """What is asked of one peer.

    Attributes:
        in_flight: fetches at a time.
        tokens: of a fetch, at most.
        large: tokens of a few fetches, which take long enough to be hit in the middle.
        steps: in which they become ready, at most.
        pace: seconds from one step to the next.
        aborts: share of the fetches that one of the two sides gives up, at a random moment.
        count: how many fetches; None: until told to stop.
        deadline: seconds for one fetch.
    """

    in_flight: int = 4
    tokens: int = 768
    large: int = 0
    steps: int = 4
    pace: float = 0.0
    aborts: float = 0.0
    count: int | None = None
    deadline: float = 60.0


@dataclass(frozen=True)
class Failure:
    """A transfer that failed; times are of the monotonic clock, which processes share."""

    began: float
    ended: float
    error: str
    message: str


@dataclass
class Tally:
    """What became of the transfers of one side with one peer."""

    good: list[float] = field(default_factory=list)
    """When each ended."""
    failed: list[Failure] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    """Transfers that were reported good and brought other bytes."""
    bytes: int = 0
    aborts: int = 0
    """Given up by this side before they had ended."""
    paths: Counter[str] = field(default_factory=Counter)

    def forget(self) -> None:
        """Drops all but what was wrong."""
        self.good.clear()
        self.failed.clear()
        self.paths.clear()
        self.bytes = self.aborts = 0

    def errors(self) -> Counter[str]:
        """How often each error."""
        return Counter(failure.error for failure in self.failed)

    def hit_at(self, moment: float) -> list[Failure]:
        """Those that ran at this moment and failed later."""
        return [failure for failure in self.failed if failure.began < moment < failure.ended]

    def good_after(self, moment: float) -> list[float]:
        """Those that ended later."""
        return [ended for ended in self.good if ended > moment]


@dataclass(frozen=True)
class Report:
    """What a station saw.

    Attributes:
        fetched: by name of the peer.
        sent: likewise.
        late_writes: pages that were written to after they had been handed back.
        missing: pages that were never handed back.
        open: what the engine counts as open.
        descriptors: of the process.
        threads: of the process.
        resident: bytes of the process's memory.
    """

    fetched: dict[str, Tally]
    sent: dict[str, Tally]
    late_writes: int
    missing: int
    open: dict[str, int]
    descriptors: int
    threads: int
    resident: int

    @property
    def still_open(self) -> dict[str, int]:
        """What is open and should not be."""
        return {name: count for name, count in self.open.items() if count}

    @property
    def wrong(self) -> list[str]:
        """Transfers that were reported good and brought other bytes."""
        return [wrong for tally in self.fetched.values() for wrong in tally.wrong]


@dataclass
class _Fetch:
    peer: _Peer
    tag: bytes
    tokens: int
    pages: list[int]
    began: float
    abort_at: float | None
    order: dict[str, Any] | None
    """What the peer still has to be told."""


@dataclass
class _Delivery:
    tally: Tally
    pages: list[int]
    began: float
    abort_at: float | None
    steps: list[int]
    """How many tokens are ready after each step that is still to come."""
    pace: float
    next_step: float = 0.0


@dataclass
class _Peer:
    name: str
    address: str
    orders: str
    load: Load
    tally: Tally
    wanted: bool = True
    running: int = 0
    begun: int = 0
    not_before: float = 0.0


class Station:
    """One engine, one pool, and the thread that keeps them busy."""

    def __init__(
        self,
        name: str,
        orders: str,
        seed: int = 0,
        shape: Shape = SHAPE,
        patience: float = 2.0,
        **config: Any,
    ) -> None:
        """Starts it.

        Args:
            name: by which the others know it.
            orders: path of the socket at which it takes orders.
            seed: of all that is random about it.
            shape: of its pool.
            patience: seconds for which it keeps pages for somebody who does not fetch them.
            config: of its engine.
        """
        self._random = random.Random(seed)
        self._patience = patience
        self._pages = Pages("kv", shape)
        self._engine = Engine(EngineConfig(**{"host": "127.0.0.1", "log_level": "error"} | config))
        self._pool = self._engine.register_pool(self._pages.spec())
        self.listening_since = time.monotonic()
        count = shape.page_count
        self._clean = deque(range(count // 2))  # to fetch into: longest untouched first
        self._stock = list(range(count // 2, count))  # to send from: written over soonest
        self._late_writes = 0
        self._peers: dict[str, _Peer] = {}
        self._sent: dict[str, Tally] = defaultdict(Tally)
        self._fetches: dict[Any, _Fetch] = {}
        self._deliveries: dict[Any, _Delivery] = {}
        self._backlog: deque[dict[str, Any]] = deque()
        self._lock = threading.Lock()
        self._closed = False
        self._orders = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        Path(orders).unlink(missing_ok=True)
        self._orders.bind(orders)
        self._to_others = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._name = name
        self._numbers = itertools.count()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    # What tests call.

    def address(self) -> str:
        return self._engine.address

    def listens(self) -> float:
        """Since when peers can connect."""
        return self.listening_since

    def peers(self) -> list[dict[str, Any]]:
        return self._engine.peers()

    def fetch_from(self, name: str, address: str, orders: str, **load: Any) -> None:
        """Begins to fetch from a station, or goes on with one that has come back."""
        with self._lock:
            tally = self._peers[name].tally if name in self._peers else Tally()
            self._peers[name] = _Peer(name, address, orders, Load(**load), tally)

    def stop(self) -> None:
        """Begins no more fetches."""
        with self._lock:
            for peer in self._peers.values():
                peer.wanted = False

    def idle(self) -> bool:
        """Whether every transfer begun so far has ended."""
        with self._lock:
            return not self._fetches and not self._deliveries and not self._backlog

    def settle(self, timeout: float = 30.0) -> Report:
        """Stops and waits for what is running; reports what is then still open, if anything."""
        self.stop()
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if self.idle() and not any(self._engine.stats().values()):
                break
            time.sleep(0.01)
        return self.report()

    def report(self) -> Report:
        """The state of things."""
        with self._lock:
            missing = self._pages.shape.page_count - len(self._clean) - len(self._stock)
            for fetch in self._fetches.values():
                missing -= len(fetch.pages)
            for delivery in self._deliveries.values():
                missing -= len(delivery.pages)
            return Report(
                {name: peer.tally for name, peer in self._peers.items()},
                dict(self._sent),
                self._late_writes + len(self._pages.touched(self._clean)),
                missing,
                self._engine.stats(),
                len(os.listdir("/proc/self/fd")),
                len(os.listdir("/proc/self/task")),
                resident_bytes(),
            )

    def forget(self) -> None:
        """Begins to count afresh; what was wrong stays wrong."""
        with self._lock:
            for peer in self._peers.values():
                peer.tally.forget()
            for tally in self._sent.values():
                tally.forget()

    def close(self) -> None:
        self._closed = True
        self._thread.join()
        self._engine.close()
        self._orders.close()
        self._to_others.close()

    # The thread.

    def _work(self) -> None:
        while not self._closed:
            with self._lock:
                self._turn()
            time.sleep(_TURN)

    def _turn(self) -> None:
        for completion in self._engine.poll():
            fetch = self._fetches.pop(completion.transfer, None)
            if fetch is not None:
                self._fetched(fetch, completion)
            else:
                self._delivered(self._deliveries.pop(completion.transfer), completion)
        self._backlog.extend(self._new_orders())
        while self._backlog and self._deliver(self._backlog[0]):
            self._backlog.popleft()
        for send, delivery in self._deliveries.items():
            self._advance(send, delivery)
        for recv, fetch in self._fetches.items():
            if fetch.order is not None and self._order(fetch.peer, fetch.order):
                fetch.order = None
            if fetch.abort_at is not None and time.monotonic() >= fetch.abort_at:
                fetch.abort_at = None
                fetch.peer.tally.aborts += not recv.done()
                recv.cancel()
        for peer in self._peers.values():
            while self._may_fetch(peer) and self._fetch(peer):
                pass

    # Fetching.

    def _may_fetch(self, peer: _Peer) -> bool:
        load = peer.load
        if load.count is not None and peer.begun >= load.count:
            return False
        return peer.wanted and peer.running < load.in_flight and time.monotonic() >= peer.not_before

    def _fetch(self, peer: _Peer) -> bool:
        chance = self._random
        large = peer.load.large and chance.random() < _LARGE_SHARE
        tokens = peer.load.large if large else chance.randint(1, peer.load.tokens)
        count = -(-tokens // self._pool.page_size)
        if len(self._clean) < count:
            return False
        tag = f"{self._name} {self._engine.instance_id} {next(self._numbers)}"
        steps = sorted(chance.randint(1, tokens) for _ in range(chance.randrange(peer.load.steps)))
        order: dict[str, Any] | None = {
            "for": self._name,
            "tag": tag,
            "steps": [*steps, tokens],
            "pace": peer.load.pace,
        }
        abort_at = None
        match chance.random() < peer.load.aborts, chance.random() < 0.5:
            case True, True:
                abort_at = time.monotonic() + chance.uniform(0, 0.05 if large else 0.005)
            case True, False:
                order["abort_after"] = chance.uniform(0, 0.005)
        if chance.random() < 0.5:  # else the request comes before what it asks for
            if not self._order(peer, order):
                peer.not_before = time.monotonic() + _PAUSE
                return False
            order = None
        pages = [self._clean.popleft() for _ in range(count)]
        self._late_writes += len(self._pages.touched(pages))
        recv = self._engine.recv(
            peer.address,
            tag.encode(),
            [(self._pool, pages)],
            tokens=tokens,
            deadline=peer.load.deadline,
        )
        self._fetches[recv] = _Fetch(
            peer, tag.encode(), tokens, pages, time.monotonic(), abort_at, order
        )
        peer.running += 1
        peer.begun += 1
        return True

    def _order(self, peer: _Peer, order: dict[str, Any]) -> bool:
        """Sends an order; whoever is dead or frozen takes none."""
        try:
            self._to_others.sendto(json.dumps(order).encode(), peer.orders)
        except OSError:
            return False
        return True

    def _fetched(self, fetch: _Fetch, completion: Completion) -> None:
        peer = fetch.peer
        peer.running -= 1
        if completion.error is None:
            peer.tally.good.append(time.monotonic())
            peer.tally.bytes += completion.bytes
            peer.tally.paths[str(completion.path)] += 1
            wrong = self._pages.wrong((fetch.tag, fetch.pages, 0, range(fetch.tokens)))
            if wrong:
                peer.tally.wrong.append(f"{fetch.tag!r}: {wrong} elements over {completion.path}")
        else:
            peer.tally.failed.append(_failure(fetch.began, completion.error))
            if not isinstance(completion.error, TransferAborted):
                peer.not_before = time.monotonic() + _PAUSE
        self._pages.wipe(fetch.pages)
        self._clean.extend(fetch.pages)

    # Delivering.

    def _new_orders(self) -> Iterator[dict[str, Any]]:
        with contextlib.suppress(BlockingIOError):
            while True:
                yield json.loads(self._orders.recv(4096))

    def _deliver(self, order: dict[str, Any]) -> bool:
        steps: list[int] = order["steps"]
        count = -(-steps[-1] // self._pool.page_size)
        if len(self._stock) < count:
            return False
        pages = [self._stock.pop() for _ in range(count)]
        self._random.shuffle(pages)
        tag = order["tag"].encode()
        self._pages.fill(tag, pages, until=steps[-1])
        send = self._engine.send(tag, deadline=self._patience)
        send.append(self._pool, pages)
        now = time.monotonic()
        self._deliveries[send] = _Delivery(
            self._sent[order["for"]],
            pages,
            now,
            now + order["abort_after"] if "abort_after" in order else None,
            steps,
            order["pace"],
        )
        return True

    def _advance(self, send: Any, delivery: _Delivery) -> None:
        if delivery.abort_at is not None and time.monotonic() >= delivery.abort_at:
            delivery.abort_at = None
            delivery.steps.clear()
            delivery.tally.aborts += not send.done()
            send.abort("the test wants it so")
        elif delivery.steps and time.monotonic() >= delivery.next_step:
            delivery.next_step = time.monotonic() + delivery.pace
            send.mark_ready(delivery.steps.pop(0))
            if not delivery.steps:
                send.finish()

    def _delivered(self, delivery: _Delivery, completion: Completion) -> None:
        if completion.error is None:
            delivery.tally.good.append(time.monotonic())
            delivery.tally.bytes += completion.bytes
        else:
            delivery.tally.failed.append(_failure(delivery.began, completion.error))
        # Whoever still reads these pages shall get something else.
        self._pages.fill(b"handed back", delivery.pages)
        self._stock.extend(delivery.pages)


def resident_bytes(process: int | str = "self") -> int:
    """Memory of a process."""
    pages = Path(f"/proc/{process}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def _failure(began: float, error: MooncakeConnectorError) -> Failure:
    return Failure(began, time.monotonic(), type(error).__name__, str(error)[:200])

# SPDX-License-Identifier: Apache-2.0
"""One engine with its pools, behind calls whose arguments and results can cross processes."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mooncake_connector import Engine, EngineConfig, Send, Transfer
from support.pages import Pages, Shape, Span

PATIENCE = 60.0  # seconds; what takes longer has failed, even on a busy machine


def eventually(happened: Callable[[], bool]) -> None:
    """Waits until it has happened."""
    deadline = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.002)


@dataclass(frozen=True)
class Ended:
    """A transfer's completion, without the objects that live in one process."""

    error: str | None
    """Name of the exception's class."""
    message: str
    bytes: int
    spans: int
    path: str | None

    @property
    def ok(self) -> bool:
        """Whether everything arrived."""
        return self.error is None


class _Catcher(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[tuple[str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append((record.levelname.lower(), record.getMessage()))


_catcher = _Catcher()
logging.getLogger("mooncake_connector.engine").addHandler(_catcher)
logging.getLogger("mooncake_connector.engine").setLevel(logging.DEBUG)


class Node:
    """One engine. Transfers are named by their id."""

    def __init__(self, **config: Any) -> None:
        config = {"host": "127.0.0.1"} | config
        self._log_start = len(_catcher.lines)
        self._engine = Engine(EngineConfig(**config))
        self._pools: dict[str, Any] = {}
        self._pages: dict[str, Pages] = {}
        self._memory: dict[int, Any] = {}
        self._transfers: dict[int, Transfer] = {}
        self._completions: Counter[int] = Counter()
        self._closed = False

    def address(self) -> str:
        return self._engine.address

    def instance_id(self) -> str:
        return self._engine.instance_id

    # Pools.

    def add_pool(self, name: str, shape: Shape, **lies: object) -> None:
        """Registers a pool; `lies` replace fields of its description."""
        self._pages[name] = Pages(name, shape)
        self._pools[name] = self._engine.register_pool(self._pages[name].spec(**lies))

    def fill(
        self,
        pool: str,
        tag: bytes,
        pages: Sequence[int],
        first_token: int = 0,
        until: int | None = None,
    ) -> None:
        self._pages[pool].fill(tag, pages, first_token, until)

    def clear(self, pool: str) -> None:
        self._pages[pool].clear()

    def difference(self, pool: str, *spans: Span) -> str | None:
        return self._pages[pool].difference(*spans)

    # Sends.

    def send(self, tag: bytes, deadline: float = PATIENCE) -> int:
        return self._keep(self._engine.send(tag, deadline))

    def append(
        self, send: int, pool: str, pages: Sequence[int], first_token: int | None = None
    ) -> None:
        self._send(send).append(self._pools[pool], pages, first_token)

    def mark_ready(self, send: int, tokens: int) -> None:
        self._send(send).mark_ready(tokens)

    def rewind(self, send: int, tokens: int) -> None:
        self._send(send).rewind(tokens)

    def finish(
        self,
        send: int,
        windows: Sequence[tuple[str, Sequence[int], int]] = (),
        rows: Sequence[tuple[str, Sequence[int]]] = (),
    ) -> None:
        self._send(send).finish(
            windows=[(self._pools[pool], pages, first) for pool, pages, first in windows],
            rows=[(self._pools[pool], pages) for pool, pages in rows],
        )

    def abort(self, send: int, reason: str) -> None:
        self._send(send).abort(reason)

    def matched(self, send: int) -> list[tuple[str, int | None]]:
        return self._send(send).matched()

    def offer(self, tag: bytes, parts: Sequence[tuple[str, Sequence[int]]], tokens: int) -> int:
        """Fills pages and sends them at once."""
        send = self.send(tag)
        for pool, pages in parts:
            self.fill(pool, tag, pages, until=tokens)
            self.append(send, pool, pages)
        self.mark_ready(send, tokens)
        self.finish(send)
        return send

    # Receives.

    def recv(
        self,
        senders: str | Sequence[str],
        tag: bytes,
        parts: Sequence[tuple[Any, ...]] = (),
        *,
        tokens: int = 0,
        rows: Sequence[tuple[str, Sequence[int]]] = (),
        deadline: float = PATIENCE,
        **more: Any,
    ) -> int:
        return self._keep(
            self._engine.recv(
                senders,
                tag,
                [(self._pools[part[0]], *part[1:]) for part in parts],
                tokens=tokens,
                rows=[(self._pools[pool], pages) for pool, pages in rows],
                deadline=deadline,
                **more,
            )
        )

    # One-sided.

    def add_memory(self, nbytes: int, remote: str) -> int:
        """Registers memory that holds zeros; returns its address."""
        memory = np.zeros(nbytes, np.uint8)
        address = self._engine.register_memory(memory, remote).address
        self._memory[address] = memory
        return address

    def store(self, address: int, contents: bytes) -> None:
        self._memory[address][: len(contents)] = np.frombuffer(contents, np.uint8)

    def load(self, address: int) -> bytes:
        return bytes(self._memory[address])

    def write(self, peer: str, *lists: Sequence[int], deadline: float = PATIENCE) -> int:
        return self._keep(self._engine.write(peer, *map(_addresses, lists), deadline=deadline))

    def read(self, peer: str, *lists: Sequence[int], deadline: float = PATIENCE) -> int:
        return self._keep(self._engine.read(peer, *map(_addresses, lists), deadline=deadline))

    # Ends.

    def cancel(self, transfer: int) -> None:
        self._transfers[transfer].cancel()

    def done(self, transfer: int) -> bool:
        return self._transfers[transfer].done()

    def wait(self, transfer: int, timeout: float = PATIENCE) -> Ended:
        completion = self._transfers[transfer].wait(timeout)
        error = completion.error
        return Ended(
            None if error is None else type(error).__name__,
            str(error or ""),
            completion.bytes,
            completion.spans,
            completion.path,
        )

    def peers(self) -> list[dict[str, Any]]:
        return self._engine.peers()

    def stats(self) -> dict[str, int]:
        return self._engine.stats()

    def log(self) -> list[tuple[str, str]]:
        """Level and text of what the engines of this process have logged since this one began."""
        self._poll()
        return _catcher.lines[self._log_start :]

    def leftovers(self, timeout: float = PATIENCE) -> str | None:
        """What is still open once everything has had time to end; None: nothing."""
        deadline = time.monotonic() + timeout
        while (still := self._open()) and time.monotonic() < deadline:
            time.sleep(0.005)
        self._poll()
        wrong = {key: self._completions[key] for key in self._transfers}
        wrong = {key: count for key, count in wrong.items() if count != 1}
        if not still and not wrong:
            return None
        return f"still open: {still}; completions that are not one: {wrong}"

    def _open(self) -> dict[str, int]:
        if self._closed:
            return {}
        return {name: count for name, count in self._engine.stats().items() if count}

    def close(self) -> None:
        self._closed = True
        self._engine.close()

    def _poll(self) -> None:
        self._completions.update(completion.transfer.id for completion in self._engine.poll())

    def _keep(self, transfer: Transfer) -> int:
        self._transfers[transfer.id] = transfer
        return transfer.id

    def _send(self, transfer: int) -> Send:
        send = self._transfers[transfer]
        assert isinstance(send, Send)
        return send


def _addresses(values: Sequence[int]) -> np.ndarray[Any, np.dtype[np.uint64]]:
    return np.asarray(values, np.uint64)

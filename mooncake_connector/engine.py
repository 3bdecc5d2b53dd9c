# SPDX-License-Identifier: Apache-2.0
"""The engine: moves pages between this process and others.

A sender opens ``send(tag)`` and adds pages as it has them; a receiver posts ``recv(sender, tag,
pages)``. Whichever comes first waits for the other. Everything happens in threads of the engine
that never take the GIL; the calls here only hand over work, and `Engine.poll` tells what has ended.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mooncake_connector import _engine, authentication
from mooncake_connector.config import EngineConfig
from mooncake_connector.errors import (
    ConfigError,
    MooncakeConnectorError,
    TransferTimeout,
    UnsupportedError,
    exception_for,
)
from mooncake_connector.keys import load_keys
from mooncake_connector.pools import PoolSpec, memory_of

logger = logging.getLogger(__name__)

PageIds = Sequence[int] | npt.NDArray[np.int32]
Part = tuple["Pool", PageIds]
WindowedPart = tuple["Pool", PageIds, int]

_NO_PAGES: Final[npt.NDArray[np.int32]] = np.empty(0, np.int32)


class Pool:
    """A pool registered with one engine. Made by `Engine.register_pool`."""

    def __init__(self, spec: PoolSpec) -> None:
        self.spec: Final = spec

    @property
    def name(self) -> str:
        """By which pools of two engines pair."""
        return self.spec.name

    @property
    def page_size(self) -> int:
        """Tokens of a page."""
        return self.spec.page_size

    @property
    def page_count(self) -> int:
        """Page ids are 0 to page_count - 1."""
        return self.spec.page_count

    def __repr__(self) -> str:
        return f"Pool({self.name!r}, {self.page_count} pages of {self.page_size} tokens)"


@dataclass(frozen=True, slots=True)
class RegisteredMemory:
    """Memory that one-sided transfers may use: address and length in bytes."""

    address: int
    nbytes: int
    remote: str


@dataclass(frozen=True, slots=True)
class Completion:
    """How a transfer ended. Each transfer completes exactly once.

    Attributes:
        transfer: what ended; the object that `Engine.send`, `recv`, `write` or `read` returned.
        error: None if everything arrived, else why not.
        bytes: moved by this engine for the transfer; bytes that had to be sent again count again.
        spans: contiguous stretches gathered, scattered or read here.
        path: by which most bytes went ("local", "shm", "cma", "tcp"), None if none did.
        seconds: from the call to the end.
    """

    transfer: Transfer
    error: MooncakeConnectorError | None
    bytes: int
    spans: int
    path: str | None
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether everything arrived."""
        return self.error is None

    @property
    def kind(self) -> str:
        """``send``, ``recv``, ``write`` or ``read``."""
        return self.transfer.kind


class Transfer:
    """One send, recv, write or read."""

    def __init__(self, engine: Engine, handle: _engine.Transfer) -> None:
        self._engine = engine
        self._native = engine._native
        self._handle = handle
        engine._transfers[handle.id] = self

    @property
    def id(self) -> int:
        """Unique in this engine."""
        return self._handle.id

    @property
    def kind(self) -> str:
        """``send``, ``recv``, ``write`` or ``read``."""
        return self._handle.kind

    def done(self) -> bool:
        """Whether it has ended, well or badly."""
        return self._native.outcome(self._handle) is not None

    def wait(self, timeout: float) -> Completion:
        """Waits for the end without the GIL. `Engine.poll` returns the completion all the same.

        Args:
            timeout: seconds.

        Raises:
            TransferTimeout: it has not ended in this time; it goes on.
        """
        outcome = self._native.wait(self._handle, timeout)
        self._engine._write_log()
        if outcome is None:
            raise TransferTimeout(f"{self.kind} {self.id} has not ended within {timeout} s")
        return _completion(self, outcome)

    def cancel(self) -> None:
        """Gives up. The completion (TransferAborted) comes when no byte can be moved any more."""
        self._native.cancel(self._handle)

    def __repr__(self) -> str:
        return f"<{self.kind} {self.id}>"


class Recv(Transfer):
    """The receiving end of a transfer. Made by `Engine.recv`."""


class Send(Transfer):
    """The sending end of a transfer, which grows until `finish`. Made by `Engine.send`."""

    def __init__(self, engine: Engine, handle: _engine.Transfer) -> None:
        super().__init__(engine, handle)
        self._next_token: dict[str, int] = {}  # behind the pages appended so far, by pool

    def append(self, pool: Pool, page_ids: PageIds, first_token: int | None = None) -> None:
        """Adds pages of a part that is shipped as it becomes ready.

        Args:
            pool: one of this engine.
            page_ids: int32, shape (pages,); in token order.
            first_token: number of the first page's first token. The first append of a pool may say
                it (0 if it does not); later ones continue.

        Raises:
            ConfigError: a page id is out of range, or first_token does not continue.
        """
        expected = self._next_token.get(pool.name)
        if first_token is None:
            first_token = expected or 0
        elif expected is not None and first_token != expected:
            raise ConfigError(
                f"first_token={first_token} leaves a gap: the pages of pool {pool.name!r} so far "
                f"end at token {expected}"
            )
        pages = _pages(page_ids)
        self._native.append(self._handle, pool.name, pages, first_token)
        self._next_token[pool.name] = first_token + len(pages) * pool.page_size

    def mark_ready(self, tokens: int, event: object | None = None) -> None:
        """Lets the tokens [0, tokens) be shipped. The mark never moves back but by `rewind`.

        Args:
            tokens: how many from the start hold their final KV.
            event: for pages in device memory: the event after which that is true.
        """
        if event is not None:
            raise UnsupportedError(
                "an event orders device work, but no pool of this engine lies in device memory; "
                "pass event=None"
            )
        self._native.mark_ready(self._handle, tokens)

    def rewind(self, tokens: int) -> None:
        """Takes back the pages of the tokens from `tokens` on.

        When this returns, whatever is still read from them is void: they may be given to others.
        Pages that hold only such tokens are dropped; what is appended next continues there.
        """
        self._native.rewind(self._handle, tokens)
        for pool, end in self._next_token.items():
            size = self._engine._pools[pool].page_size
            self._next_token[pool] = min(end, -(-tokens // size) * size)

    def finish(self, *, windows: Sequence[WindowedPart] = (), rows: Sequence[Part] = ()) -> None:
        """No more tokens will come; parts that are shipped only at the end are shipped now.

        Args:
            windows: (pool, page_ids, first_token): pages of a sliding window, null pages included.
            rows: (pool, page_ids): rows of state or aux data.
        """
        parts = [(pool.name, _pages(ids), first) for pool, ids, first in windows]
        parts += [(pool.name, _pages(ids), 0) for pool, ids in rows]
        self._native.finish(self._handle, parts)

    def abort(self, reason: str) -> None:
        """Gives up; receivers get TransferAborted with this reason."""
        self._native.abort(self._handle, reason)

    def matched(self) -> list[tuple[str, int | None]]:
        """Receivers so far: address, and the first token wanted (None: only released)."""
        return self._native.matched(self._handle)


class Engine:
    """Moves pages between this process and others. Thread-safe.

    Raises:
        ConfigError: the address cannot be used.
    """

    def __init__(self, config: EngineConfig | None = None) -> None:
        self.config: Final = config or EngineConfig()
        keys = load_keys(self.config.key_file)
        self._native = _engine.Engine(self.config, [key.id for key in keys])
        self._authentication = authentication.start(self._native, keys)
        if self._authentication is not None:  # it keeps the native engine alive
            weakref.finalize(self, self._native.close)
        self._pools: dict[str, Pool] = {}
        self._keep: dict[int, Any] = {}  # registered memory, by address
        self._transfers: weakref.WeakValueDictionary[int, Transfer] = weakref.WeakValueDictionary()

    @property
    def address(self) -> str:
        """``host:port`` at which peers find this engine."""
        return self._native.address

    @property
    def instance_id(self) -> str:
        """32 hexadecimal digits, different for each incarnation."""
        return self._native.instance_id

    def register_pool(self, spec: PoolSpec) -> Pool:
        """Makes a pool's pages known to this engine and its peers. Keep its memory alive.

        Raises:
            ConfigError: the description contradicts itself, or the name is taken.
            UnsupportedError: the pool lies in memory that this build cannot reach.
        """
        self._native.register_pool(spec)
        pool = Pool(spec)
        self._pools[spec.name] = pool
        return pool

    def register_memory(self, memory: Any, remote: str = "") -> RegisteredMemory:
        """Lets one-sided transfers use this memory.

        Args:
            memory: a contiguous tensor, array or writable buffer, which is kept alive; or (address,
                nbytes, device), with device None for host memory.
            remote: what peers may do with it: "", "r", "w" or "rw".

        Raises:
            ConfigError: it is empty or overlaps registered memory.
        """
        if remote not in ("", "r", "w", "rw"):
            raise ConfigError(f"remote={remote!r} is not one of '', 'r', 'w', 'rw'")
        address, nbytes, device = memory_of(memory)
        self._native.register_memory(address, nbytes, device, "r" in remote, "w" in remote)
        self._keep[address] = memory
        return RegisteredMemory(address, nbytes, remote)

    def unregister_memory(self, memory: RegisteredMemory) -> None:
        """Forgets the memory. Transfers that run on it go on: wait for them first."""
        self._native.unregister_memory(memory.address)
        self._keep.pop(memory.address, None)

    def send(self, tag: bytes, deadline: float = 60.0) -> Send:
        """Opens the sending end of a transfer; receivers can find it from now on.

        Args:
            tag: what both sides call this transfer, 1 to 256 bytes. Equal tags pair first come,
                first served.
            deadline: seconds without any progress, once it is finished, after which it fails with
                TransferTimeout.
        """
        return Send(self, self._native.send(tag, deadline))

    def recv(
        self,
        sender: str | Sequence[str],
        tag: bytes,
        parts: Sequence[Part | WindowedPart],
        *,
        tokens: int,
        first_token: int = 0,
        rows: Sequence[Part] = (),
        deadline: float = 60.0,
        request: int = 0,
        receiver_index: int = 0,
        receiver_count: int = 1,
    ) -> Recv:
        """Asks a sender, or several that hold different heads or layers, for pages.

        Args:
            sender: address or addresses.
            tag: the send's.
            parts: (pool, page_ids): int32 pages of this engine for the tokens [first_token,
                tokens); the first page is the one that holds first_token. Pages equal to the pool's
                null page are left out. No parts (and tokens=0) releases the send. A part whose
                tokens are wanted from a later one on (a sliding window) says so: (pool, page_ids,
                first_token).
            tokens: number of the first token that is not wanted.
            first_token: number of the first token that is.
            rows: (pool, page_ids): rows that come at the end of the send.
            deadline: seconds until it fails with TransferTimeout.
            request: a number shared by all receivers (ranks) of one request, if there are several.
            receiver_index: this receiver's number among them.
            receiver_count: how many there are.

        Raises:
            ConfigError: a page id or token number is out of range, or an address malformed.
        """
        addresses = [sender] if isinstance(sender, str) else list(sender)
        handle = self._native.recv(
            addresses,
            tag,
            [(part[0].name, _pages(part[1]), *(part[2:] or (0,))) for part in parts],
            first_token,
            tokens,
            [(pool.name, _pages(ids), 0) for pool, ids in rows],
            request,
            receiver_index,
            receiver_count,
            deadline,
        )
        return Recv(self, handle)

    def write(
        self,
        address: str,
        source: npt.NDArray[np.uint64],
        destination: npt.NDArray[np.uint64],
        lengths: npt.NDArray[np.uint64],
        deadline: float = 60.0,
    ) -> Transfer:
        """Copies registered memory here to memory that the peer registered with remote="w".

        Args:
            address: the peer's.
            source: uint64 addresses in this process, shape (segments,).
            destination: uint64 addresses in the peer, shape (segments,).
            lengths: uint64 bytes, shape (segments,).
            deadline: seconds until it fails with TransferTimeout.
        """
        return Transfer(self, self._native.write(address, source, destination, lengths, deadline))

    def read(
        self,
        address: str,
        source: npt.NDArray[np.uint64],
        destination: npt.NDArray[np.uint64],
        lengths: npt.NDArray[np.uint64],
        deadline: float = 60.0,
    ) -> Transfer:
        """Copies memory that the peer registered with remote="r" to registered memory here.

        Args:
            address: the peer's.
            source: uint64 addresses in the peer, shape (segments,).
            destination: uint64 addresses in this process, shape (segments,).
            lengths: uint64 bytes, shape (segments,).
            deadline: seconds until it fails with TransferTimeout.
        """
        return Transfer(self, self._native.read(address, source, destination, lengths, deadline))

    def poll(self) -> list[Completion]:
        """What has ended since the last call, oldest first. Never blocks.

        Also hands the engine's log lines to this module's logger. Transfers whose object is gone
        are left out: nobody is interested in them.
        """
        self._write_log()
        completions = []
        for handle in self._native.poll():
            transfer = self._transfers.get(handle.id)
            if transfer is not None:
                completions.append(_completion(transfer, self._native.outcome(handle)))
        return completions

    def peers(self) -> list[dict[str, Any]]:
        """Sessions: address, instance_id, state, path, notes (why not a better one), bytes."""
        return self._native.peers()

    def stats(self) -> dict[str, int]:
        """How many sends, recvs, grants and parked requests are open."""
        return self._native.stats()

    def close(self) -> None:
        """Ends all transfers (TransferAborted) and all threads. Idempotent."""
        self._native.close()
        if self._authentication is not None:
            self._authentication.join()
        self._write_log()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write_log(self) -> None:
        for level, text in self._native.take_log():
            logger.log(level, "%s", text)


def _pages(page_ids: PageIds) -> npt.NDArray[np.int32]:
    if len(page_ids) == 0:
        return _NO_PAGES
    given = np.asarray(page_ids)
    if given.dtype == np.int32:
        return np.ascontiguousarray(given)
    if given.dtype.kind not in "iu":
        raise ConfigError(f"page ids must be whole numbers below 2**31, not {given.dtype}")
    pages = given.astype(np.int32)
    if not np.array_equal(pages, given):
        wrong = given[pages != given][0]
        raise ConfigError(f"page {wrong} is no page id: these are int32")
    return pages


def _completion(transfer: Transfer, outcome: _engine.Outcome | None) -> Completion:
    assert outcome is not None
    code, message, nbytes, spans, path, seconds = outcome
    error = None if code == "ok" else exception_for(code)(message)
    return Completion(transfer, error, nbytes, spans, path, seconds)

# SPDX-License-Identifier: Apache-2.0
"""Transfers as their owner sees them: how a send grows, and how each of them ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mooncake_connector import _engine
from mooncake_connector.arguments import PageIds, as_count, as_seconds
from mooncake_connector.errors import (
    ConfigError,
    MooncakeConnectorError,
    TransferTimeout,
    UnsupportedError,
    exception_for,
)
from mooncake_connector.pools import Part, Pool, WindowedPart

if TYPE_CHECKING:
    from mooncake_connector.engine import Engine


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

    @classmethod
    def of(cls, transfer: Transfer, outcome: _engine.Outcome) -> Completion:
        """What the engine says of a transfer that has ended."""
        code, message, nbytes, spans, path, seconds = outcome
        error = None if code == "ok" else exception_for(code)(message)
        return cls(transfer, error, nbytes, spans, path, seconds)

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
        outcome = self._native.wait(self._handle, as_seconds(timeout, "timeout"))
        self._engine._write_log()
        if outcome is None:
            raise TransferTimeout(f"{self.kind} {self.id} has not ended within {timeout} s")
        return Completion.of(self, outcome)

    def cancel(self) -> None:
        """Gives up. The completion (TransferAborted) comes when no byte can be moved any more."""
        self._native.cancel(self._handle)

    def __repr__(self) -> str:
        return f"<{self.kind} {self.id}>"


class Recv(Transfer):
    """The receiving end of a transfer. Made by `Engine.recv`."""


class Send(Transfer):
    """The sending end of a transfer, which grows until `finish`. Made by `Engine.send`.

    Once it has ended for another reason (its deadline, `abort`), calls do nothing.
    """

    def __init__(self, engine: Engine, handle: _engine.Transfer) -> None:
        super().__init__(engine, handle)
        # The first token of the pages appended so far, and the one behind them, by pool.
        self._tokens: dict[str, tuple[int, int]] = {}
        self._finished = False

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
        self._check_grows()
        name, pages, given = self._engine._part((pool, page_ids, first_token or 0))
        begin, end = self._tokens.get(name, (given, given))
        if first_token is not None and given != end:
            raise ConfigError(
                f"first_token={first_token} leaves a gap: the pages of pool {name!r} so far end at "
                f"token {end}"
            )
        self._native.append(self._handle, name, pages, end)
        self._tokens[name] = begin, end + len(pages) * pool.page_size

    def mark_ready(self, tokens: int, event: object | None = None) -> None:
        """Lets the tokens [0, tokens) be shipped. The mark never moves back but by `rewind`.

        Args:
            tokens: how many from the start hold their final KV.
            event: for pages in device memory: the event after which that is true.
        """
        self._check_grows()
        if event is not None:
            raise UnsupportedError(
                "an event orders device work, but no pool of this engine lies in device memory; "
                "pass event=None"
            )
        self._native.mark_ready(self._handle, as_count(tokens, "tokens"))

    def rewind(self, tokens: int) -> None:
        """Takes back the pages of the tokens from `tokens` on.

        When this returns, whatever is still read from them is void: they may be given to others.
        Pages that hold only such tokens are dropped; what is appended next continues there.
        """
        self._check_grows()
        tokens = as_count(tokens, "tokens")
        self._native.rewind(self._handle, tokens)
        for pool, (begin, end) in list(self._tokens.items()):
            size = self._engine._pools[pool].page_size
            pages = max(0, -(-(tokens - begin) // size))
            if pages == 0:
                del self._tokens[pool]
            else:
                self._tokens[pool] = begin, min(end, begin + pages * size)

    def finish(self, *, windows: Sequence[WindowedPart] = (), rows: Sequence[Part] = ()) -> None:
        """No more tokens will come; parts that are shipped only at the end are shipped now.

        Args:
            windows: (pool, page_ids, first_token): pages of a sliding window, null pages included.
            rows: (pool, page_ids): rows of state or aux data.
        """
        self._check_grows()
        given: list[Part | WindowedPart] = [*windows, *rows]
        parts = [self._engine._part(part) for part in given]
        names = [*self._tokens, *(name for name, _, _ in parts)]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(
                    f"pool {name!r} has two parts of this send; give its pages at once"
                )
        self._native.finish(self._handle, parts)
        self._finished = True

    def abort(self, reason: str) -> None:
        """Gives up; receivers get TransferAborted with this reason."""
        self._native.abort(self._handle, reason)

    def _check_grows(self) -> None:
        if self._finished:
            raise ConfigError(f"{self!r} is finished: nothing can be added or taken back any more")

    def matched(self) -> list[tuple[str, int | None]]:
        """Receivers so far: address, and the first token wanted (None: only released)."""
        return self._native.matched(self._handle)

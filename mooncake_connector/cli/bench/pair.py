# SPDX-License-Identifier: Apache-2.0
"""The parent's view of the two processes."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Protocol, Self, TypeVar, cast

from mooncake_connector.cli.bench import worker as child
from mooncake_connector.cli.bench.worker import Failure, Role, Worker
from mooncake_connector.errors import MooncakeConnectorError

P = ParamSpec("P")
T = TypeVar("T")

FAREWELL = 5.0  # seconds that a process gets to end by itself


class WorkerFailed(MooncakeConnectorError):
    """A side raised an exception, died, or did not answer in time."""

    def __init__(self, message: str, kind: str = "") -> None:
        super().__init__(message)
        self.kind = kind
        """Name of the exception's class at that side, if there was one."""


class Running(Protocol):
    """What a side runs in: a process, or a thread in tests."""

    def join(self, timeout: float | None = None) -> None:
        """Waits for the end."""


Launch = Callable[[Role, int, Connection], Running]


def launch_process(role: Role, region_bytes: int, connection: Connection) -> SpawnProcess:
    """Starts a side as a fresh interpreter: nothing of the parent's is inherited.

    But for this: Ctrl-C is the parent's to handle, from the child's first instruction on.
    """
    context = multiprocessing.get_context("spawn")
    process = context.Process(
        target=child.main, args=(role, region_bytes, connection), name=f"bench-{role}", daemon=True
    )
    resource_tracker.ensure_running()  # which would unblock the signal if it had to start now
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    connection.close()
    return process


class Pair:
    """A sender and a receiver that run functions for the parent.

    Every function gets the side's Worker first; functions and arguments cross by pickle.
    """

    def __init__(self, region_bytes: int, timeout: float, launch: Launch = launch_process) -> None:
        self._timeout = timeout
        self._connections: dict[Role, Connection] = {}
        self._running: dict[Role, Running] = {}
        try:
            for role in Role:
                here, there = multiprocessing.Pipe()
                self._connections[role] = here
                self._running[role] = launch(role, region_bytes, there)
            for role in Role:
                self._answer(role, "its start")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def call(
        self, role: Role, function: Callable[Concatenate[Worker, P], T], *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:  # fmt: skip
        """Runs a function at one side and returns its result.

        Raises:
            WorkerFailed: the function raised, or the side died or did not answer in time.
        """
        assert not kwargs, "arguments cross by position"
        self._ask(role, function, args)
        return cast(T, self._answer(role, function.__name__))

    def both(
        self, function: Callable[Concatenate[Worker, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> dict[Role, T]:
        """Runs a function at both sides at the same time and returns their results.

        Raises:
            WorkerFailed: as ``call``; the other side has then been waited for as well.
        """
        assert not kwargs, "arguments cross by position"
        for role in (Role.RECEIVER, Role.SENDER):
            self._ask(role, function, args)
        answers: dict[Role, T] = {}
        failures: list[WorkerFailed] = []
        for role in Role:
            try:
                answers[role] = cast(T, self._answer(role, function.__name__))
            except WorkerFailed as failure:
                failures.append(failure)
        if failures:
            # A side that raised knows more than one that then waited for it in vain.
            raise min(failures, key=lambda failure: failure.kind in ("", "TimeoutError"))
        return answers

    def close(self) -> None:
        """Ends both sides; those that do not end by themselves are killed."""
        for connection in self._connections.values():
            connection.close()
        for running in self._running.values():
            running.join(FAREWELL)
            if isinstance(running, SpawnProcess) and running.is_alive():
                running.kill()
                running.join()
        self._connections.clear()
        self._running.clear()

    def _ask(self, role: Role, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        try:
            self._connections[role].send((function, arguments))
        except BrokenPipeError:
            raise self._death(role, function.__name__) from None

    def _answer(self, role: Role, what: str) -> Any:
        connection = self._connections[role]
        if not connection.poll(self._timeout):
            raise WorkerFailed(
                f"the {role} has not answered for {self._timeout:g} s ({what}); "
                f"a slow machine may need a longer --timeout"
            )
        try:
            answer = connection.recv()
        except (EOFError, ConnectionResetError):
            raise self._death(role, what) from None
        if isinstance(answer, Failure):
            failed = WorkerFailed(
                f"the {role} failed ({what}): {answer.kind}: {answer.message}", answer.kind
            )
            failed.add_note(answer.trace)
            raise failed
        return answer

    def _death(self, role: Role, what: str) -> WorkerFailed:
        running = self._running.get(role)
        status = ""
        if isinstance(running, SpawnProcess):
            running.join(FAREWELL)
            status = f" with exit status {running.exitcode}"
        return WorkerFailed(f"the {role} process ended{status} ({what})")

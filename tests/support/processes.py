# SPDX-License-Identifier: Apache-2.0
"""Nodes, or other objects, in another process: the same calls, carried over a pipe."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from support.node import Node

TESTS = Path(__file__).resolve().parent.parent
PATIENCE = 120.0  # seconds for an answer; the calls themselves have shorter limits


class NodeProcess:
    """A process that makes nodes and other objects. Calls run one at a time, in order."""

    def __init__(self, *wrapper: str) -> None:
        """`wrapper` is a command that runs the interpreter, as ``setpriv`` does."""
        ours, theirs = socket.socketpair()
        self._pipe = Connection(ours.detach())
        self._calls = 0
        path = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
        command = f"from support.processes import serve; serve({theirs.fileno()})"
        self._process = subprocess.Popen(
            [*wrapper, sys.executable, "-c", command],
            pass_fds=[theirs.fileno()],
            env=os.environ | {"PYTHONPATH": path},
        )
        theirs.close()

    @property
    def pid(self) -> int:
        """Its number."""
        return self._process.pid

    def node(self, **config: Any) -> Any:
        """Makes a `Node` there and returns what behaves like it here."""
        return self.make(Node, **config)

    def make(self, kind: type, **options: Any) -> Any:
        """Makes an object there and returns what behaves like it here; ends with `close`."""
        return _Remote(self, self.call(None, _Make(kind), **options))

    def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Calls a function of an importable module there."""
        return self.call(None, function, *arguments)

    def call(self, made: int | None, what: Any, *arguments: Any, **named: Any) -> Any:
        """One call, of an object made there or of a function; raises what it raised there."""
        self._calls += 1
        self._pipe.send((self._calls, made, what, arguments, named))
        number = 0
        while number != self._calls:  # a call that was interrupted may have left its answer
            if not self._pipe.poll(PATIENCE):
                raise TimeoutError(f"process {self.pid} does not answer to {what!r}")
            number, good, result = self._pipe.recv()
        if not good:
            raise result
        return result

    def kill(self) -> None:
        """Ends it at once, as the kernel's out-of-memory killer would."""
        self._process.kill()
        self._process.wait()

    def freeze(self) -> None:
        """Stops it from running."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Lets it run again."""
        self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """Ends it."""
        self._pipe.close()
        if self._process.poll() is None:
            self.thaw()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def __enter__(self) -> NodeProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True)
class _Make:
    """The call that makes an object."""

    kind: type


class _Remote:
    """An object of another process."""

    def __init__(self, process: NodeProcess, number: int) -> None:
        self._process = process
        self._number = number

    def __getattr__(self, method: str) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            return self._process.call(self._number, method, *arguments, **named)

        return call


def hold_the_gil(seconds: int) -> None:
    """Lets no other thread of the interpreter run for so long."""
    ctypes.PyDLL(None).sleep(seconds)  # PyDLL keeps the GIL during the call


def serve(descriptor: int) -> None:
    """What a `NodeProcess` runs: answers calls until the pipe closes."""
    pipe = Connection(descriptor)
    objects: list[Any] = []
    while True:
        try:
            number, made, what, arguments, named = pipe.recv()
        except EOFError:
            break
        try:
            if isinstance(what, _Make):
                objects.append(what.kind(**named))
                result = len(objects) - 1
            elif made is None:
                result = what(*arguments, **named)
            else:
                result = getattr(objects[made], what)(*arguments, **named)
            pipe.send((number, True, result))
        except Exception as error:
            error.add_note("".join(traceback.format_exception(error)))
            pipe.send((number, False, error))
    for each in objects:
        each.close()

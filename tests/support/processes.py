# SPDX-License-Identifier: Apache-2.0
"""Nodes in another process: the same calls, carried over a pipe."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parent.parent
PATIENCE = 120.0  # seconds for an answer; the calls themselves have shorter limits


class NodeProcess:
    """A process that makes nodes on request. Calls run one at a time, in order."""

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
        return _Remote(self, self.call(None, "", **config))

    def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Calls a function of an importable module there."""
        return self.call(None, function, *arguments)

    def call(self, node: int | None, what: Any, *arguments: Any, **named: Any) -> Any:
        """One call; raises what it raised there."""
        self._calls += 1
        self._pipe.send((self._calls, node, what, arguments, named))
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


class _Remote:
    """A node of another process."""

    def __init__(self, process: NodeProcess, node: int) -> None:
        self._process = process
        self._node = node

    def __getattr__(self, method: str) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            return self._process.call(self._node, method, *arguments, **named)

        return call


def hold_the_gil(seconds: int) -> None:
    """Lets no other thread of the interpreter run for so long."""
    ctypes.PyDLL(None).sleep(seconds)  # PyDLL keeps the GIL during the call


def serve(descriptor: int) -> None:
    """What a `NodeProcess` runs: answers calls until the pipe closes."""
    from support.node import Node

    pipe = Connection(descriptor)
    nodes: list[Node] = []
    while True:
        try:
            number, node, what, arguments, named = pipe.recv()
        except EOFError:
            break
        try:
            if callable(what):
                result = what(*arguments, **named)
            elif node is None:
                nodes.append(Node(**named))
                result = len(nodes) - 1
            else:
                result = getattr(nodes[node], what)(*arguments, **named)
            pipe.send((number, True, result))
        except Exception as error:
            error.add_note("".join(traceback.format_exception(error)))
            pipe.send((number, False, error))
    for each in nodes:
        each.close()

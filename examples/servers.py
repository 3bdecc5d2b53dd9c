# SPDX-License-Identifier: Apache-2.0
"""Starts server processes, waits until they answer, and leaves none behind."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

# Under which name every server serves the tiny model.
MODEL_NAME = "tiny"
POLL_SECONDS = 0.5
GRACE_SECONDS = 15.0
LOG_LINES_SHOWN = 25
LOWEST_PORT = 10240
_given_out: set[int] = set()


class ServerFailed(Exception):
    """A server died or never answered; the message says where its log is and how it ends."""


@dataclass
class Server:
    """One server process and where it answers."""

    name: str
    url: str
    log: Path
    process: subprocess.Popen[bytes]
    started: float
    readiness: str = "/health"
    ready_after: float | None = None

    def answers(self) -> bool:
        """Whether GET of the path that tells its readiness succeeds now."""
        try:
            # The URL is made here and begins with http://.
            with urllib.request.urlopen(f"{self.url}{self.readiness}", timeout=2):  # nosec B310
                return True
        except OSError:
            return False

    def failure(self, what: str) -> ServerFailed:
        """An error that names this server, its log and the log's last lines."""
        lines = self.log.read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:]
        tail = "\n".join(f"    {line}" for line in lines)
        return ServerFailed(f"{self.name} {what}; the end of {self.log}:\n{tail}")

    def signal(self, number: signal.Signals) -> None:
        """Signals the process and all that it started, which may outlive it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def wait(self, seconds: float) -> None:
        """Waits for the process to end, but not longer than this."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)


class Servers:
    """The servers of one run: a context that stops all of them when it is left, however that is.

    Each runs in a session of its own, so that Ctrl-C reaches only the program that started it,
    which then ends them in order.
    """

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._servers: list[Server] = []

    def __enter__(self) -> Self:
        self._logs.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # An impatient second Ctrl-C must not leave servers behind.
        with interrupts_held():
            self._stop()

    def start(
        self,
        name: str,
        command: Sequence[str],
        url: str,
        environment: Mapping[str, str],
        readiness: str = "/health",
    ) -> Server:
        """Starts a server; wait_ready() says when it answers at `url` and this path."""
        log = self._logs / f"{name}.log"
        # An interrupt between the two would leave a process that nobody knows.
        with log.open("wb") as output, interrupts_held():
            process = subprocess.Popen(
                command,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            server = Server(name, url, log, process, time.monotonic(), readiness)
            self._servers.append(server)
        return server

    def kill(self, server: Server) -> None:
        """Ends a server and all that it started at once, as a crash would."""
        server.signal(signal.SIGKILL)
        server.wait(GRACE_SECONDS)
        self._servers.remove(server)

    def check(self) -> None:
        """Raises ServerFailed when one of the servers has ended."""
        for server in self._servers:
            code = server.process.poll()
            if code is not None:
                raise server.failure(f"ended with {code}")

    def wait_ready(self, timeout: float, progress: Callable[[Sequence[Server]], None]) -> None:
        """Waits until every server answers.

        Args:
            timeout: Seconds to wait for all of them.
            progress: Called with the servers after each look at them.

        Raises:
            ServerFailed: One of them ended, or did not answer in time.
        """
        deadline = time.monotonic() + timeout
        while True:
            self.check()
            waiting = [server for server in self._servers if server.ready_after is None]
            for server in waiting:
                if server.answers():
                    server.ready_after = time.monotonic() - server.started
            progress(self._servers)
            if all(server.ready_after is not None for server in self._servers):
                return
            if time.monotonic() > deadline:
                raise waiting[0].failure(f"did not answer within {timeout:.0f} s")
            time.sleep(POLL_SECONDS)

    def _stop(self) -> None:
        # Last started, first stopped: a router should not see its servers die.
        for server in reversed(self._servers):
            server.signal(signal.SIGTERM)
        deadline = time.monotonic() + GRACE_SECONDS
        for server in self._servers:
            server.wait(max(0.0, deadline - time.monotonic()))
        for server in self._servers:
            server.signal(signal.SIGKILL)
            server.wait(GRACE_SECONDS)


@contextlib.contextmanager
def interrupts_held() -> Iterator[None]:
    """Lets Ctrl-C and SIGTERM wait until the block is done; for the main thread only.

    A signal mask would not do: the processes started meanwhile would inherit it.
    """
    held: list[int] = []
    handlers = {
        number: signal.signal(number, lambda number, _frame: held.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if held:
            signal.raise_signal(held[0])


def free_port() -> int:
    """A TCP port of the loopback interface that nobody listens on now.

    A server takes it only when its model is loaded. It lies below the ports that the kernel hands
    out by itself meanwhile, and is returned once.
    """
    first_of_kernels = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    candidates = range(LOWEST_PORT, max(first_of_kernels, 2 * LOWEST_PORT))
    while True:
        port = random.SystemRandom().choice(candidates)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            if port not in _given_out:
                _given_out.add(port)
                return port

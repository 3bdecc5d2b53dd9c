# SPDX-License-Identifier: Apache-2.0
"""A prefill and a decode server with the router before them, and what tests do to them."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from client import Client, RequestFailed, new_prompt
from servers import Server, Servers
from sglang_servers import SGLangCluster

START_TIMEOUT = 900.0
LIAR = Path(__file__).parent / "lying"
_ENGINE = re.compile(r"engine listens on 127\.0\.0\.1:(\d+)")


@dataclass(frozen=True)
class Setting:
    """What kind of servers a module of tests needs.

    Attributes:
        page_size: SGLang's.
        decode: further options of the decode server.
        environment: of both servers.
        liar: whether the decode server can be made to fetch nothing.
    """

    page_size: int
    decode: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    liar: bool = False


class Deployment:
    """Servers of one setting: a context that stops all of them."""

    def __init__(self, model: Path, logs: Path, setting: Setting) -> None:
        self._servers = Servers(logs)
        logged = {"MOONCAKE_CONNECTOR_LOG_LEVEL": "debug", **setting.environment}
        self._setting = setting
        self._lie = logs / "lie"
        self.cluster = SGLangCluster(
            self._servers, model, page_size=setting.page_size, environment=logged
        )

    def __enter__(self) -> Self:
        self._servers.__enter__()
        try:
            self._start()
        except BaseException:
            self._servers.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._servers.__exit__(None, None, None)

    def _start(self) -> None:
        self.prefill = self.cluster.prefill()
        liar = {"PYTHONPATH": str(LIAR), "LYING_RECEIVER_FILE": str(self._lie)}
        self.decode = self.cluster.decode(
            *self._setting.decode, environment=liar if self._setting.liar else None
        )
        self._wait()
        self.router = Client(self.cluster.router(self.prefill, self.decode).url)
        self._wait()

    def _wait(self) -> None:
        self._servers.wait_ready(START_TIMEOUT, lambda _: None)

    @contextlib.contextmanager
    def lying(self) -> Iterator[None]:
        """The decode server reports requests as fetched, and fetches no page."""
        self._lie.touch()
        yield
        self._lie.unlink()

    def check(self) -> None:
        """Fails if a server has ended."""
        self._servers.check()

    def engine_ports(self) -> list[int]:
        """Where the engines of the running servers listen."""
        return [engine_port(server) for server in (self.prefill, self.decode)]

    def kill_prefill(self) -> None:
        """Kills the prefill server, and all its processes, without any warning."""
        self._servers.kill(self.prefill)

    def restart_prefill(self) -> None:
        """Starts it again at the same address."""
        self.prefill = self.cluster.prefill()
        self._wait()

    def answer_again(self) -> None:
        """Waits until the router sends requests to both servers again."""
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            try:
                self.router.complete(new_prompt(20))
                return
            except RequestFailed:
                if time.monotonic() > deadline:
                    raise
                time.sleep(1)


def engine_port(server: Server) -> int:
    """Where a server's engine listens, as its log says."""
    ports = _ENGINE.findall(server.log.read_text(errors="replace"))
    return int(ports[-1])

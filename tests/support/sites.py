# SPDX-License-Identifier: Apache-2.0
"""Processes with a station for each path, so that one fault is done to all paths at once."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections.abc import Callable
from typing import Any, Self

from support.node import PATIENCE
from support.processes import NodeProcess
from support.station import Report, Station

WAYS = ("shm", "cma", "tcp")


class Site:
    """One process. It keeps its addresses when it is started again."""

    def __init__(
        self, folder: str, name: str, ways: tuple[str, ...], wrapper: tuple[str, ...], **config: Any
    ) -> None:
        self.name = name
        self.ways = ways
        self._folder = folder
        self._wrapper = wrapper
        self._config = config
        self.addresses: dict[str, str] = {}
        self.process: NodeProcess
        self.stations: dict[str, Any] = {}
        self.start()

    def start(self) -> float:
        """Starts the process, again if it was killed; returns since when all stations listen."""
        self.process = NodeProcess(*self._wrapper)
        for way in self.ways:
            port = int(self.addresses[way].rpartition(":")[2]) if way in self.addresses else 0
            self.stations[way] = self.process.make(
                Station,
                name=self.name,
                orders=self.orders(way),
                paths=(way,),
                port=port,
                **self._config,
            )
            self.addresses[way] = self.stations[way].address()
        return max(station.listens() for station in self.stations.values())

    def orders(self, way: str) -> str:
        """Where a station takes orders."""
        return f"{self._folder}/{self.name}-{way}"

    def fetch_from(self, other: Site, **load: Any) -> None:
        """Every station begins to fetch from the other site's station of the same path."""
        for way, station in self.stations.items():
            station.fetch_from(other.name, other.addresses[way], other.orders(way), **load)

    def reports(self) -> dict[str, Report]:
        """Of each path."""
        return {way: station.report() for way, station in self.stations.items()}

    def stop(self) -> None:
        """No station begins to fetch any more."""
        for station in self.stations.values():
            station.stop()

    def settle(self) -> dict[str, Report]:
        """Stops, waits for what is running, reports."""
        self.stop()
        return {way: station.settle() for way, station in self.stations.items()}

    def until(self, happened: Callable[[Report], bool]) -> None:
        """Waits until it has happened on every path."""
        deadline = time.monotonic() + PATIENCE
        while waiting := [way for way, report in self.reports().items() if not happened(report)]:
            assert time.monotonic() < deadline, f"it never happened on {waiting}"
            time.sleep(0.02)

    def kill(self) -> float:
        """Ends the process at once; returns when."""
        killed = time.monotonic()
        self.process.kill()
        return killed

    def freeze(self) -> float:
        """Stops the process from running; returns when."""
        frozen = time.monotonic()
        self.process.freeze()
        return frozen

    def thaw(self) -> float:
        """Lets it run again; returns when."""
        thawed = time.monotonic()
        self.process.thaw()
        return thawed

    def close(self) -> None:
        """Ends the process in order."""
        self.process.close()


class Sites:
    """Makes sites and ends them."""

    def __init__(self) -> None:
        self._folder = tempfile.mkdtemp(prefix="mc-")  # short: it holds names of Unix sockets
        self._made = 0
        self._ends = contextlib.ExitStack()  # ends all of them, even if one makes difficulties
        self._ends.callback(shutil.rmtree, self._folder)

    def make(
        self,
        name: str,
        ways: tuple[str, ...] = WAYS,
        wrapper: tuple[str, ...] = (),
        **config: Any,
    ) -> Site:
        """Starts a site; `wrapper` is a command that runs the interpreter."""
        self._made += 1
        site = Site(self._folder, name, ways, wrapper, seed=self._made, **config)
        self._ends.callback(site.close)
        return site

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.close()

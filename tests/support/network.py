# SPDX-License-Identifier: Apache-2.0
"""Two network namespaces, and a wire between them that tests can cut or make bad.

The wire is a thread that carries packets between two TUN devices, so that delay, loss and disorder
need nothing of the kernel but TUN (many kernels lack the netem scheduler).
"""

from __future__ import annotations

import fcntl
import heapq
import itertools
import os
import random
import select
import shutil
import struct
import subprocess
import threading
import time
from dataclasses import dataclass
from typing import Self

_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_MTU = 9000  # fewer packets for a thread of Python to carry
_LARGEST = 65536


class NotPermittedError(Exception):
    """This user or this kernel cannot make namespaces or devices; the message says which."""


@dataclass(frozen=True)
class Weather:
    """How the wire treats packets: seconds, and shares of them."""

    delay: float = 0.0
    loss: float = 0.0
    disorder: float = 0.0
    """Held back for another `delay`, so that later ones overtake them."""
    cut: bool = False


@dataclass(frozen=True)
class End:
    """One of the two namespaces."""

    name: str
    address: str

    @property
    def wrapper(self) -> tuple[str, ...]:
        """The command that runs another one there."""
        return ("ip", "netns", "exec", self.name)


class Network:
    """The namespaces and the wire.

    Raises:
        NotPermittedError: they cannot be made here.
    """

    def __init__(self, seed: int = 0) -> None:
        if os.geteuid() != 0 or shutil.which("ip") is None:
            raise NotPermittedError("network namespaces need root and iproute2")
        self.ends = tuple(End(f"mc{os.getpid()}-{n}", f"10.77.0.{n}") for n in (1, 2))
        self.weather = Weather()
        self.dropped = 0
        self.carried = 0
        self._random = random.Random(seed)
        self._devices: list[int] = []
        self._stop, self._stopped = os.pipe()
        try:
            for end in self.ends:
                self._make(end)
        except BaseException:
            self._remove()
            raise
        self._thread = threading.Thread(target=self._carry, daemon=True)
        self._thread.start()

    def _make(self, end: End) -> None:
        _ip("netns", "add", end.name)
        try:
            device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            self._devices.append(device)
            request = struct.pack("16sH22x", end.name.encode(), _IFF_TUN | _IFF_NO_PI)
            fcntl.ioctl(device, _TUNSETIFF, request)
        except OSError as error:
            raise NotPermittedError(f"no TUN device: {error}") from None
        _ip("link", "set", end.name, "netns", end.name)
        _ip("-n", end.name, "address", "add", f"{end.address}/24", "dev", end.name)
        _ip("-n", end.name, "link", "set", end.name, "mtu", str(_MTU), "up")
        _ip("-n", end.name, "link", "set", "lo", "up")

    def _carry(self) -> None:
        waiting: list[tuple[float, int, int, bytes]] = []  # due, number, to which device, packet
        numbers = itertools.count()
        while True:
            timeout = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
            readable, _, _ = select.select([self._stop, *self._devices], [], [], timeout)
            if self._stop in readable:
                return
            for device in readable:
                other = self._devices[1 - self._devices.index(device)]
                packet = os.read(device, _LARGEST)
                if (due := self._due()) is None:
                    self.dropped += 1
                else:
                    heapq.heappush(waiting, (due, next(numbers), other, packet))
            while waiting and waiting[0][0] <= time.monotonic():
                _, _, device, packet = heapq.heappop(waiting)
                self.carried += 1
                try:
                    os.write(device, packet)
                except BlockingIOError:
                    self.dropped += 1

    def _due(self) -> float | None:
        """When a packet is handed on; None: never."""
        weather = self.weather
        if weather.cut or self._random.random() < weather.loss:
            return None
        late = self._random.random() < weather.disorder
        return time.monotonic() + weather.delay * (2 if late else 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.write(self._stopped, b"x")
        self._thread.join()
        self._remove()

    def _remove(self) -> None:
        for descriptor in (*self._devices, self._stop, self._stopped):
            os.close(descriptor)
        for end in self.ends:
            subprocess.run(["ip", "netns", "delete", end.name], capture_output=True, check=False)


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise NotPermittedError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")

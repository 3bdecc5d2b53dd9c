# SPDX-License-Identifier: Apache-2.0
"""What every way to move pages looks like at each of the two sides."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any

from mooncake_connector.cli.bench.region import Region
from mooncake_connector.cli.bench.worker import Role, Worker
from mooncake_connector.cli.bench.workload import Workload


class End(abc.ABC):
    """One side's end of a way to move pages. Both sides call the same methods in step."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.sending = worker.role is Role.SENDER

    def offer(self) -> Any:
        """What the other side's ``connect`` needs."""
        return None

    def connect(self, offer: Any) -> None:  # noqa: B027  # memcpy connects to nothing
        """Connects to the other side. The sender is called first."""

    @abc.abstractmethod
    def load(self, transfers: Sequence[Workload]) -> None:
        """Prepares all that can be prepared for these transfers, and starts over with them."""

    @abc.abstractmethod
    def transfer(self) -> None:
        """Makes the next transfer, after the last one the first; returns when this side is done."""

    def announce(self, count: int) -> None:  # noqa: B027  # only the engine knows pages by names
        """Makes ``count`` pages known that the receiver will ask for in ``latencies``."""

    @abc.abstractmethod
    def latencies(self, count: int) -> list[float]:
        """Moves ``count`` single pages of the first transfer one after the other.

        Returns:
            Seconds of each, from asking for it to having it, at the side that sees both; else [].
        """

    def destination(self) -> Region | None:
        """The memory that the workload lands in, if it is in this process."""
        return None if self.sending else self.worker.region

    def close(self) -> None:  # noqa: B027  # most leave it to the collector
        """Gives back what was opened."""

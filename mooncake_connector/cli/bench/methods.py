# SPDX-License-Identifier: Apache-2.0
"""Opening the ends of the ways to move pages, by name, at both sides."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from mooncake_connector.cli.bench import worker as child
from mooncake_connector.cli.bench.baselines import BASELINES
from mooncake_connector.cli.bench.ends import End
from mooncake_connector.cli.bench.engine_end import EngineEnd
from mooncake_connector.cli.bench.pair import Pair, WorkerFailed
from mooncake_connector.cli.bench.worker import Role, Worker
from mooncake_connector.cli.bench.workload import WorkloadSpec
from mooncake_connector.errors import MooncakeConnectorError

ENGINE = "engine "
# What a side raises when this machine does not permit a way, for example cma in a container.
NOT_PERMITTED = frozenset({"PermissionError", "UnsupportedError"})


@dataclass(frozen=True)
class Opened:
    """The ways that can be used here, and why the others cannot."""

    names: tuple[str, ...]
    unavailable: dict[str, str]


def engine_method(path: str) -> str:
    """The name of the engine forced to one path, or left to choose (``auto``)."""
    return ENGINE + path


@contextmanager
def opened(pair: Pair, names: Sequence[str], spec: WorkloadSpec) -> Iterator[Opened]:
    """Opens ways at both sides, connects them and makes one transfer through each.

    Raises:
        MooncakeConnectorError: a way fails for another reason than that it is not permitted here.
    """
    usable: list[str] = []
    unavailable: dict[str, str] = {}
    pair.both(child.load, spec)
    for name in names:
        try:
            offers = pair.both(_open, name)
            pair.call(Role.SENDER, _connect, name, offers[Role.RECEIVER])
            pair.call(Role.RECEIVER, _connect, name, offers[Role.SENDER])
            pair.both(_load, name)
            pair.both(child.transfer, name, 1)
        except WorkerFailed as failure:
            if failure.kind not in NOT_PERMITTED:
                raise MooncakeConnectorError(f"{name}: {failure}") from failure
            unavailable[name] = str(failure)
            pair.both(_close, name)
        else:
            usable.append(name)
    yield Opened(tuple(usable), unavailable)
    # After a failure the sides may not answer any more; they close what is open when they end.
    for name in usable:
        pair.both(_close, name)


def verify_contents(pair: Pair, name: str) -> None:
    """Compares what a whole workload moved through ``name`` left at its destination.

    Raises:
        MooncakeConnectorError: names the first page that is wrong.
    """
    try:
        compared = any(pair.both(child.check, name).values())
    except WorkerFailed as failure:
        raise MooncakeConnectorError(f"{name} moved wrong contents: {failure}") from failure
    if not compared:
        raise MooncakeConnectorError(f"no side holds what {name} moved: nothing was compared")


def _open(worker: Worker, name: str) -> Any:
    end: End
    if name.startswith(ENGINE):
        end = EngineEnd(worker, name.removeprefix(ENGINE))
    else:
        end = BASELINES[name](worker)
    worker.ends[name] = end
    return end.offer()


def _connect(worker: Worker, name: str, offer: Any) -> None:
    worker.ends[name].connect(offer)


def _load(worker: Worker, name: str) -> None:
    worker.ends[name].load(worker.transfers)


def _close(worker: Worker, name: str) -> None:
    end = worker.ends.pop(name, None)
    if end is not None:
        end.close()

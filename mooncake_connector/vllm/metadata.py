# SPDX-License-Identifier: Apache-2.0
"""What the scheduler tells the workers in each step, and what a worker tells the scheduler once.

vLLM pickles these between its own processes (nothing of it reaches another host), so they hold
plain values only. Page ids are int32 arrays: the cost of a step does not depend on Python loops
over pages.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorHandshakeMetadata,
    KVConnectorMetadata,
)

PageIds = npt.NDArray[np.int32]


@dataclass(slots=True)
class Part:
    """One KV cache group's share of a transfer.

    Attributes:
        group: the KV cache group's number.
        pages: page ids, in token order.
        first_token: the first token that is meant, which lies on ``pages[0]``.
    """

    group: int
    pages: PageIds
    first_token: int = 0


@dataclass(slots=True)
class Opening:
    """P announces a request of which it will prefill ``tokens`` tokens."""

    tag: bytes
    tokens: int


@dataclass(slots=True)
class Load:
    """D fetches tokens [first_token, tokens) of a request from the workers at ``addresses``.

    ``request`` is a number that all of D's workers name, and no other request does.
    """

    request: int
    tag: bytes
    addresses: list[str]
    parts: list[Part]
    first_token: int
    tokens: int


@dataclass(slots=True)
class Release:
    """D tells P's workers that it will not fetch this request."""

    request: int
    tag: bytes
    addresses: list[str]


@dataclass(slots=True)
class StepMetadata(KVConnectorMetadata):
    """One step's orders. Keys are request ids.

    Attributes:
        opened: sends to announce.
        rewound: sends of preempted requests: their pages are about to be overwritten.
        appended: pages that sends got in this step.
        ready: how many tokens of a send exist once this step's forward pass is done.
        finished: sends that are complete, with their windowed parts.
        aborted: sends that will never be complete, with the reason.
        loads: what to fetch.
        cancelled: loads whose request is gone.
        failed: loads that failed before a worker knew of them, with the reason.
        releases: what will not be fetched.
    """

    opened: dict[str, Opening] = field(default_factory=dict)
    rewound: list[str] = field(default_factory=list)
    appended: dict[str, list[Part]] = field(default_factory=dict)
    ready: dict[str, int] = field(default_factory=dict)
    finished: dict[str, list[Part]] = field(default_factory=dict)
    aborted: dict[str, str] = field(default_factory=dict)
    loads: dict[str, Load] = field(default_factory=dict)
    cancelled: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    releases: list[Release] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class WorkerAddress(KVConnectorHandshakeMetadata):
    """Where a worker's engine listens ("host:port"), and which incarnation of it that is."""

    address: str
    instance_id: str

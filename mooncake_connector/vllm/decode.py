# SPDX-License-Identifier: Apache-2.0
"""D's ledger: which requests were prefilled elsewhere, and where each of them stands."""

from __future__ import annotations

import enum
import itertools
import secrets
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mooncake_connector.config import ConnectorConfig
from mooncake_connector.errors import ConfigError, MooncakeConnectorError
from mooncake_connector.lookups import outcome
from mooncake_connector.vllm.compat import window_of
from mooncake_connector.vllm.identity import tag_of
from mooncake_connector.vllm.metadata import Load, Part, Release, StepMetadata
from mooncake_connector.vllm.resolver import Resolver

if TYPE_CHECKING:
    from vllm.v1.core.kv_cache_manager import KVCacheBlocks
    from vllm.v1.kv_cache_interface import KVCacheConfig
    from vllm.v1.request import Request


class _Stage(enum.Enum):
    """A request's KV is fetched at most once, so the stages only ever go forward."""

    WAITING = enum.auto()
    """It has no pages yet."""
    LOOKING_UP = enum.auto()
    """It has pages; where P's workers are is not known yet."""
    LOADING = enum.auto()
    """The workers were told to fetch, or to fail it."""
    DONE = enum.auto()
    """The fetch has ended, or all that could be fetched was in the local prefix cache."""


@dataclass(slots=True)
class _Fetch:
    """A request that P prefilled; ``number`` tells it from all others at P, whatever their tags."""

    number: int
    tag: bytes
    workers: Future[list[str]]
    stage: _Stage = _Stage.WAITING
    parts: list[Part] | None = None
    first_token: int = 0
    tokens: int = 0


class DecodeLedger:
    """Follows the requests that carry ``do_remote_prefill``."""

    def __init__(self, cache: KVCacheConfig, config: ConnectorConfig) -> None:
        specs = {n: cache.kv_cache_groups[n].kv_cache_spec for n in cache.transfer_group_ids}
        self._page_size = {number: spec.block_size for number, spec in specs.items()}
        self._window = {number: window_of(spec) for number, spec in specs.items()}
        self._resolver = Resolver(config)
        # A random start, because several decode servers ask the same prefill server.
        self._numbers = itertools.count(secrets.randbits(62))
        self._fetches: dict[str, _Fetch] = {}
        # Only these are looked at in a step.
        self._looking_up: dict[str, _Fetch] = {}
        self._releasing: list[_Fetch] = []
        self._cancelled: list[str] = []
        self._failed: dict[str, str] = {}

    def new_request(self, request: Request, params: dict[str, Any]) -> None:
        """Starts looking up P's workers, before the request even gets pages."""
        transfer_id = params.get("transfer_id")
        if isinstance(transfer_id, str) and transfer_id:
            workers = self._resolver.resolve(
                params.get("remote_bootstrap_addr"), params.get("remote_engine_id")
            )
            fetch = _Fetch(next(self._numbers), tag_of(transfer_id, request), workers)
        else:
            problem = (
                f"kv_transfer_params has no transfer_id ({transfer_id!r}): the router must send "
                "one id to both servers, or relay the prefill server's kv_transfer_params"
            )
            fetch = _Fetch(next(self._numbers), b"", _no_workers(ConfigError(problem)))
        self._fetches[request.request_id] = fetch

    def matched_tokens(self, request: Request, computed: int) -> int:
        """Tokens to fetch: all but the local ones and the last, which D always computes itself."""
        fetch = self._fetches.get(request.request_id)
        if fetch is None or fetch.stage is not _Stage.WAITING:
            return 0
        fetch.first_token = computed
        prompt: int = request.num_prompt_tokens
        return max(prompt - 1 - computed, 0)

    def allocated(self, request: Request, blocks: KVCacheBlocks, external: int) -> None:
        """Takes the pages to fill; or, with nothing to fetch, lets P go.

        Which pages to fill follows from the tokens' positions in the full table, not from which
        of its blocks have no hash yet.
        """
        fetch = self._fetches.get(request.request_id)
        if fetch is None or fetch.stage is not _Stage.WAITING:
            return
        if external == 0:
            fetch.stage = _Stage.DONE
            self._releasing.append(fetch)
            return
        fetch.tokens = fetch.first_token + external
        fetch.parts = list(self._parts(fetch, blocks.get_block_ids()))
        fetch.stage = _Stage.LOOKING_UP
        self._looking_up[request.request_id] = fetch

    def _parts(self, fetch: _Fetch, tables: tuple[list[int], ...]) -> Iterator[Part]:
        """The pages to fill. P has only the window of the token that D computes next."""
        for group, size in self._page_size.items():
            first = fetch.first_token
            if (window := self._window[group]) is not None:
                first = max(first, fetch.tokens - window + 1)
            pages = tables[group][first // size : -(-fetch.tokens // size)]
            yield Part(group, np.asarray(pages, dtype=np.int32), first)

    def write(self, step: StepMetadata) -> None:
        """Adds this step's orders. Costs nothing while all requests are being fetched."""
        for request_id in [id for id, one in self._looking_up.items() if one.workers.done()]:
            fetch = self._looking_up.pop(request_id)
            fetch.stage = _Stage.LOADING
            workers = outcome(fetch.workers)
            if isinstance(workers, MooncakeConnectorError):
                self._failed[request_id] = str(workers)
                continue
            step.loads[request_id] = Load(
                fetch.number, fetch.tag, workers, fetch.parts or [], fetch.first_token, fetch.tokens
            )
        waiting = []
        for fetch in self._releasing:
            if not fetch.workers.done():
                waiting.append(fetch)
            elif not isinstance(workers := outcome(fetch.workers), MooncakeConnectorError):
                step.releases.append(Release(fetch.number, fetch.tag, workers))
        self._releasing = waiting
        step.cancelled, self._cancelled = self._cancelled, []
        step.failed, self._failed = self._failed, {}

    def fetched(self, request_ids: Iterable[str]) -> None:
        """All workers reported these requests, as fetched or failed."""
        for request_id in request_ids:
            if (fetch := self._fetches.get(request_id)) is not None:
                fetch.stage = _Stage.DONE

    def request_finished(self, request: Request) -> None:
        """Stops what is still going on for the request.

        vLLM keeps the pages of a request that was being fetched until the workers report it, so
        one that they do not know of yet is reported as failed.
        """
        fetch = self._fetches.pop(request.request_id, None)
        if fetch is None:
            return
        if fetch.stage is _Stage.WAITING:
            self._releasing.append(fetch)
        elif fetch.stage is _Stage.LOOKING_UP:
            del self._looking_up[request.request_id]
            self._failed[request.request_id] = "the request was aborted"
            self._releasing.append(fetch)
        elif fetch.stage is _Stage.LOADING:
            self._cancelled.append(request.request_id)

    def has_pending_work(self) -> bool:
        """Whether a request that is gone still has to be released at P."""
        return bool(self._releasing)

    def close(self) -> None:
        """Stops the lookups."""
        self._resolver.close()


def _no_workers(error: MooncakeConnectorError) -> Future[list[str]]:
    future: Future[list[str]] = Future()
    future.set_exception(error)
    return future

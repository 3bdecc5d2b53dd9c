# SPDX-License-Identifier: Apache-2.0
"""P's ledger: which requests are being prefilled for somebody else, and how far they are."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from mooncake_connector.vllm.compat import window_of
from mooncake_connector.vllm.identity import mint_transfer_id, tag_of
from mooncake_connector.vllm.metadata import Opening, Part, StepMetadata

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.kv_cache_interface import KVCacheConfig
    from vllm.v1.request import Request


@dataclass(slots=True)
class _Send:
    """A request that D will want.

    Attributes:
        transfer_id: shared with D.
        tokens: how many of the prompt's tokens are prefilled here.
        pages: pages told to the workers so far, by paged group.
    """

    transfer_id: str
    tokens: int
    pages: dict[int, int] = field(default_factory=dict)


class PrefillLedger:
    """Follows the requests that carry ``do_remote_decode``."""

    def __init__(self, cache: KVCacheConfig, bootstrap: str, engine_id: str) -> None:
        groups = {number: cache.kv_cache_groups[number] for number in cache.transfer_group_ids}
        self._page_size = {n: group.kv_cache_spec.block_size for n, group in groups.items()}
        self._windowed = [n for n, group in groups.items() if window_of(group.kv_cache_spec)]
        self._paged = [n for n in groups if n not in self._windowed]
        self._answer = {
            "do_remote_prefill": True,
            "do_remote_decode": False,
            "remote_bootstrap_addr": bootstrap,
            "remote_engine_id": engine_id,
        }
        self._sends: dict[str, _Send] = {}
        self._next = StepMetadata()

    def new_request(self, request: Request, params: dict[str, Any]) -> None:
        """Announces the request, so that a D that comes first is told to wait."""
        transfer_id = params.get("transfer_id")
        if not isinstance(transfer_id, str) or not transfer_id:
            transfer_id = mint_transfer_id(request.request_id)
        tag = tag_of(transfer_id, request)
        if self._windowed:
            _stop_one_token_early(request)
        self._sends[request.request_id] = _Send(transfer_id, request.num_prompt_tokens)
        self._next.opened[request.request_id] = Opening(tag, request.num_prompt_tokens)

    def write(self, step: StepMetadata, output: SchedulerOutput) -> None:
        """Adds this step's orders. Costs O(requests scheduled), whatever their length."""
        step.opened, step.finished, step.aborted = (
            self._next.opened,
            self._next.finished,
            self._next.aborted,
        )
        self._next = StepMetadata()
        if not self._sends:
            return
        for request_id in output.preempted_req_ids or ():
            if (send := self._sends.get(request_id)) is not None and send.pages:
                send.pages.clear()
                step.rewound.append(request_id)
        for request_id, computed, pages in _scheduled(output):
            send = self._sends.get(request_id)
            if send is None or computed >= send.tokens:
                continue
            if pages is not None:
                step.appended[request_id] = self._new_parts(send, pages)
            reached = computed + output.num_scheduled_tokens[request_id]
            step.ready[request_id] = min(reached, send.tokens)

    def _new_parts(self, send: _Send, pages: tuple[list[int], ...]) -> list[Part]:
        """This step's pages of the paged groups, up to the prompt's last one."""
        parts = []
        for group in self._paged:
            known = send.pages.get(group, 0)
            wanted = -(-send.tokens // self._page_size[group]) - known
            new = np.asarray(pages[group][:wanted], dtype=np.int32)
            if len(new):
                parts.append(Part(group, new, known * self._page_size[group]))
                send.pages[group] = known + len(new)
        return parts

    def request_finished(
        self, request: Request, pages: tuple[list[int], ...]
    ) -> tuple[bool, dict[str, Any] | None]:
        """Hands the request over to D if it was prefilled to its end, else takes it back."""
        send = self._sends.pop(request.request_id, None)
        if send is None:
            return False, None
        if _was_cut_off(request) or request.num_computed_tokens < send.tokens:
            self._next.aborted[request.request_id] = (
                f"the prefill ended after {request.num_computed_tokens} of {send.tokens} tokens "
                f"({request.status.name})"
            )
            return True, None
        self._next.finished[request.request_id] = list(self._windows(send, pages))
        return True, {**self._answer, "transfer_id": send.transfer_id}

    def _windows(self, send: _Send, pages: tuple[list[int], ...]) -> Iterator[Part]:
        """The windowed groups' final pages: only these are sure to stay until they are sent."""
        for group in self._windowed:
            size = self._page_size[group]
            table = np.asarray(pages[group][: -(-send.tokens // size)], dtype=np.int32)
            kept = np.flatnonzero(table)
            if len(kept):
                yield Part(group, table[kept[0] :], int(kept[0]) * size)


def _scheduled(
    output: SchedulerOutput,
) -> Iterable[tuple[str, int, tuple[list[int], ...] | None]]:
    """The step's requests: id, tokens computed before the step, and pages that are new."""
    for new in output.scheduled_new_reqs:
        yield new.req_id, new.num_computed_tokens, new.block_ids
    cached = output.scheduled_cached_reqs
    yield from zip(cached.req_ids, cached.num_computed_tokens, cached.new_block_ids, strict=True)


def _was_cut_off(request: Request) -> bool:
    return request.status.name not in (
        "FINISHED_STOPPED",
        "FINISHED_LENGTH_CAPPED",
        "FINISHED_REPETITION",
    )


def _stop_one_token_early(request: Request) -> None:
    """Leaves the prompt's last token to D, which computes it in any case.

    When P has computed a token, vLLM gives back what the *next* token's window does not need. D
    computes the last token itself, so it needs the window of that one, which may start a page
    earlier. The prompt's list is replaced, not changed: other samples of it may share it.
    """
    if request.num_prompt_tokens == 1 or request.get_skip_reading_prefix_cache():
        return
    request.prompt_token_ids = request.prompt_token_ids[:-1]
    del request._all_token_ids[-1:]
    request.num_prompt_tokens -= 1
    request.max_tokens = 1

# SPDX-License-Identifier: Apache-2.0
"""P's end of one request: opens the send at intake, adds pages chunk by chunk, ends it."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
from sglang.srt.disaggregation.base.conn import BaseKVSender, KVPoll, KVTransferMetric
from sglang.srt.disaggregation.common.conn import KVTransferError
from sglang.srt.environ import envs
from sglang.srt.runtime_context import get_parallel

from mooncake_connector.errors import MooncakeConnectorError
from mooncake_connector.sglang.identity import tag_of
from mooncake_connector.transfers import Completion, Send

if TYPE_CHECKING:
    from mooncake_connector.sglang.manager import Manager

logger = logging.getLogger(__name__)


class Sender(BaseKVSender):
    """What SGLang's prefill scheduler calls for one request, on its own thread.

    It is told of no prefix that D has already: D asks for the tokens that it lacks, whatever is
    offered.
    """

    def __init__(
        self,
        mgr: Manager,
        bootstrap_addr: str,
        bootstrap_room: int,
        req_has_disagg_prefill_dp_rank: bool = False,
    ) -> None:
        """Announces the request, before it has any page.

        Args:
            mgr: this worker's.
            bootstrap_addr: of this server's bootstrap.
            bootstrap_room: the request's number, shared with D.
            req_has_disagg_prefill_dp_rank: whether D was told the data-parallel rank.
        """
        self.kv_mgr = mgr
        self.bootstrap_room: Final = bootstrap_room
        # The scheduler sets it to what has to pass before the next chunk may be read.
        self._early_send_wait_event: object | None = None
        self._status: int = KVPoll.Bootstrapping
        self._reason: str | None = None
        self._opened = time.perf_counter()
        self._first_sent: float | None = None
        self._metric = KVTransferMetric()
        self._pages = 0
        self._pages_in_all: int | None = None
        self._aux_index: int | None = None
        self._patience: float = envs.SGLANG_DISAGGREGATION_BOOTSTRAP_TIMEOUT.get()
        self._send: Send | None = None
        mgr.publish_status(bootstrap_room, self._status)
        if not bootstrap_room:
            self._fail("bootstrap_room is 0, which SGLang uses for 'none'; routers choose another")
            return
        if not req_has_disagg_prefill_dp_rank and not self._settle_dp_rank():
            return
        self._send = mgr.engine.send(tag_of(bootstrap_room), deadline=mgr.config.hold_timeout)
        mgr.follow(self._send, self._ended)

    def _settle_dp_rank(self) -> bool:
        """Makes sure that D finds this data-parallel rank; False if it cannot."""
        parallel = get_parallel()
        ranks: int = parallel.num_dp_ranks
        if ranks == 1:
            return True
        ask = envs.SGLANG_DISAGGREGATION_FORCE_QUERY_PREFILL_DP_RANK.get()
        if ask or parallel.load_balance_method != "follow_bootstrap_room":
            self.kv_mgr.register_dp_rank(self.bootstrap_room)
            return True
        expected = self.bootstrap_room % ranks
        if self.kv_mgr.attn_dp_rank == expected:
            return True
        self._fail(
            f"the request came to data-parallel rank {self.kv_mgr.attn_dp_rank}, but the decode "
            f"server takes room {self.bootstrap_room} to be on rank {expected}; set "
            "SGLANG_DISAGGREGATION_FORCE_QUERY_PREFILL_DP_RANK=1 on both servers"
        )
        return False

    # What the scheduler asks for while the request waits and runs.

    def poll(self) -> int:
        """Where the request stands. Never blocks, and goes back for no reason but failure."""
        self.kv_mgr.collect()
        if self._status == KVPoll.Bootstrapping:
            self._look_for_receivers()
        return self._status

    def poll_pp_consensus(self) -> int:
        """Where the request stands, for all pipeline stages; SGLang asks the first one alone.

        The others need not have heard of D: pages can be offered before D asks for them.
        """
        return self.poll()

    def _look_for_receivers(self) -> None:
        assert self._send is not None
        matched = self._send.matched()
        if matched:
            if all(first_token is None for _, first_token in matched):
                self._give_up("the decode server gave the request up")
            else:
                self._advance(KVPoll.WaitingForInput)
        elif time.perf_counter() - self._opened > self._patience:
            self._give_up(
                f"no decode server asked for the request within {self._patience:.0f} s; check the "
                "router, and that both servers have the same key"
            )

    def pop_decode_prefix_len(self) -> int:
        """Always 0: all pages are offered, and D asks for those that it lacks."""
        return 0

    def init(self, num_kv_indices: int, aux_index: int | None = None) -> None:
        """Tells how many pages there will be in all, and the metadata row."""
        self._pages_in_all = num_kv_indices
        self._aux_index = aux_index
        if self._status == KVPoll.Bootstrapping:  # the first pipeline stage has heard of D
            self._advance(KVPoll.WaitingForInput)

    def get_max_transfer_tokens(self) -> None:
        """There is no limit to one chunk."""
        return

    def should_send_kv_chunk(self, num_pages: int, last_chunk: bool) -> bool:
        """The last chunk also ends the send, pages or not."""
        return num_pages > 0 or last_chunk

    def send(
        self,
        kv_indices: npt.NDArray[np.int32],
        state_indices: Sequence[Any] | None = None,
        num_kv_tokens: int | None = None,
    ) -> None:
        """Offers a chunk's pages; the last one's come with the state and the metadata row.

        Args:
            kv_indices: int32, shape (pages,); in token order, behind those sent before.
            state_indices: with the last chunk: by state component, its page or row numbers.
            num_kv_tokens: not needed; SGLang's parameter.
        """
        if self._send is None or self._status in (KVPoll.Failed, KVPoll.Success):
            return
        event, self._early_send_wait_event = self._early_send_wait_event, None
        if self._first_sent is None:
            self._first_sent = time.perf_counter()
        memory = self.kv_mgr.memory()
        try:
            if len(kv_indices) > 0:
                self._send.append(memory.kv, kv_indices)
                self._pages += len(kv_indices)
                self._send.mark_ready(self._pages * memory.kv.page_size, event)
            if self._pages == self._pages_in_all:
                tokens = self._pages * memory.kv.page_size
                tails, rows = memory.last_parts(state_indices, self._aux_index, tokens)
                self._send.finish(windows=tails, rows=rows)
        except MooncakeConnectorError as error:
            self._give_up(str(error))

    def mark_prefill_complete(self) -> None:
        """Only for an allocation policy that this adapter refuses."""

    # How it ends.

    def _ended(self, completion: Completion) -> None:
        """The engine will not read the pages any more."""
        if completion.error is not None:
            self._fail(str(completion.error))
            return
        ended = self._opened + completion.seconds
        self._metric.transfer_latency_s = max(ended - (self._first_sent or ended), 1e-9)
        self._metric.transfer_total_bytes = completion.bytes
        self._advance(KVPoll.Success)

    def _advance(self, status: int) -> None:
        if self._status != KVPoll.Failed:
            self._status = status
            self.kv_mgr.publish_status(self.bootstrap_room, status)

    def _fail(self, reason: str) -> None:
        if self._status not in (KVPoll.Failed, KVPoll.Success):
            self._reason = reason
            self._status = KVPoll.Failed
            self.kv_mgr.publish_status(self.bootstrap_room, self._status)

    def _give_up(self, reason: str) -> None:
        self._fail(reason)
        if self._send is not None:
            self._send.abort(reason)

    def get_transfer_metric(self) -> KVTransferMetric:
        """Bytes, and seconds from the first chunk to the end."""
        return self._metric

    def failure_exception(self) -> None:
        """Raises why it failed, and forgets the request.

        Raises:
            KVTransferError: always.
        """
        from_another_rank = self._status != KVPoll.Failed
        self._fail("another rank's share of the request failed")
        reason = self.kv_mgr.failure_reason(self.bootstrap_room, self._reason)
        self.clear()
        raise KVTransferError(
            self.bootstrap_room, reason or "unknown", is_from_another_rank=from_another_rank
        )

    def abort(self) -> None:
        """The request was aborted: D hears of it, and nothing more is read."""
        self._give_up("the prefill server aborted the request")

    def clear(self) -> None:
        """The scheduler is done with the request and gives its pages back."""
        if self._send is not None and self._status != KVPoll.Success:
            self._send.abort(self._reason or "the prefill server dropped the request")
        self.kv_mgr.forget(self.bootstrap_room)

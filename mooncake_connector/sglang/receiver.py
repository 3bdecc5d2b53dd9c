# SPDX-License-Identifier: Apache-2.0
"""D's end of one request: finds P's ranks, asks them for the pages, tells when they are there."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
from sglang.srt.disaggregation.base.conn import BaseKVReceiver, KVPoll, KVTransferDestination
from sglang.srt.disaggregation.common.conn import KVTransferError, PrefillServerInfo
from sglang.srt.environ import envs

from mooncake_connector.errors import MooncakeConnectorError
from mooncake_connector.lookups import outcome
from mooncake_connector.sglang.bootstrap import PrefillRanks, RankId
from mooncake_connector.sglang.identity import request_number, tag_of
from mooncake_connector.transfers import Completion, Recv

if TYPE_CHECKING:
    from mooncake_connector.sglang.manager import Manager

# How long a prefill server is told that a request was given up before it had pages here.
_RELEASE_DEADLINE = 5.0

logger = logging.getLogger(__name__)


class Receiver(BaseKVReceiver):
    """What SGLang's decode scheduler calls for one request, on its own thread.

    Attributes:
        bootstrap_infos: the ranks of P that were asked for pages; None before that.
        abort_notified: whether the transfer was given up.
        conclude_state: how it ended, once it has.
        require_staging: never: heads are sliced by the engine.
    """

    require_staging = False
    # SGLang's recomputation after retraction looks at these before it calls abort().
    _lifecycle_lock = contextlib.nullcontext()
    _owns_bootstrap_room = True

    def __init__(
        self, mgr: Manager, bootstrap_addr: str, bootstrap_room: int | None = None
    ) -> None:
        """Starts to look P up, before the request has any page.

        Args:
            mgr: this worker's.
            bootstrap_addr: host:port of P's bootstrap server, as the client's request names it.
            bootstrap_room: the request's number, shared with P.
        """
        self.kv_mgr = mgr
        self.bootstrap_addr: Final = bootstrap_addr
        self.bootstrap_room: Final = bootstrap_room or 0
        self.bootstrap_infos: list[str] | None = None
        self.abort_notified = False
        self.conclude_state: int | None = None
        self._status: int = KVPoll.Bootstrapping
        self._reason: str | None = None
        self._dp_rank: int | None = None
        self._senders: list[str] = []
        self._receiver_index, self._receiver_count = 0, 1
        self._recv: Recv | None = None
        self._tokens = 0
        self._lookup = mgr.look_up(bootstrap_addr)
        mgr.publish_status(self.bootstrap_room, self._status)
        if not self.bootstrap_room:
            self._fail("bootstrap_room is 0, which SGLang uses for 'none'; routers choose another")

    def init(self, prefill_dp_rank: int) -> None:
        """Tells which data-parallel rank of P has the request."""
        self._dp_rank = prefill_dp_rank

    def poll(self) -> int:
        """Where the request stands. Never blocks, and goes back for no reason but failure.

        A failure is told once nothing can be written to the request's pages any more.
        """
        self.kv_mgr.collect()
        if self._status == KVPoll.Bootstrapping and self._dp_rank is not None:
            self._look_for_senders()
        if self._status == KVPoll.Failed and self._recv is not None:
            return int(KVPoll.Transferring)
        return self._status

    def _look_for_senders(self) -> None:
        if not self._lookup.done():
            return
        ranks = outcome(self._lookup)
        if isinstance(ranks, MooncakeConnectorError):
            self._fail(str(ranks))
            return
        info = self.kv_mgr.adopt(self.bootstrap_addr, ranks)
        if info is None:
            self._fail(
                f"the ranks of the prefill server at {self.bootstrap_addr} and of this decode "
                "server do not divide; --tp-size of one must be a multiple of the other's"
            )
            return
        try:
            self._senders = self._choose(ranks, info)
        except KeyError as missing:
            self._fail(f"the prefill server at {self.bootstrap_addr} has no rank {missing}")
            return
        self._advance(KVPoll.WaitingForInput)

    def _choose(self, ranks: PrefillRanks, info: PrefillServerInfo) -> list[str]:
        """The engines that hold this rank's heads and layers, all of them."""
        assert self._dp_rank is not None
        share = max(1, self.kv_mgr.attn_tp_size // info.attn_tp_size)
        self._receiver_index, self._receiver_count = self.kv_mgr.attn_tp_rank % share, share
        return [
            ranks.engines[RankId(self._dp_rank, pp, tp)]
            for pp in info.target_pp_ranks
            for tp in info.target_tp_ranks
        ]

    @property
    def supports_host_destination(self) -> bool:
        """Whether pages of host memory may be given to `send_metadata`."""
        return bool(self.kv_mgr.supports_host_destination)

    def send_metadata(
        self,
        kv_indices: npt.NDArray[np.int32],
        aux_index: int | None = None,
        state_indices: Sequence[Any] | None = None,
        decode_prefix_len: int | None = None,
        destination: KVTransferDestination = KVTransferDestination.DEVICE,
    ) -> None:
        """Asks for the request's KV, state and metadata.

        Args:
            kv_indices: int32, shape (pages,): where the tokens from decode_prefix_len on go.
            aux_index: the metadata row.
            state_indices: by state component, its page or row numbers.
            decode_prefix_len: tokens that D has already; a multiple of the page size.
            destination: to which memory the pages belong.
        """
        if self._status == KVPoll.Failed:
            return
        memory = self.kv_mgr.memory(destination)
        first_token = decode_prefix_len or 0
        self._tokens = first_token + len(kv_indices) * memory.kv.page_size
        tails, rows = memory.last_parts(state_indices, aux_index, self._tokens)
        parts = [(memory.kv, kv_indices, first_token), *tails] if len(kv_indices) > 0 else tails
        try:
            recv = memory.engine.recv(
                self._senders,
                tag_of(self.bootstrap_room),
                parts,
                tokens=self._tokens if parts else 0,
                rows=rows,
                deadline=envs.SGLANG_DISAGGREGATION_WAITING_TIMEOUT.get(),
                request=request_number(self.bootstrap_room),
                receiver_index=self._receiver_index,
                receiver_count=self._receiver_count,
            )
        except MooncakeConnectorError as error:
            self._fail(str(error))
            return
        self._recv = recv
        self.bootstrap_infos = list(self._senders)
        self.kv_mgr.follow(recv, self._ended)
        self._advance(KVPoll.Transferring)

    # How it ends.

    def _ended(self, completion: Completion) -> None:
        """Nothing writes to the pages any more."""
        self._recv = None
        if completion.error is not None:
            if self._status != KVPoll.Failed:  # not given up here: P may have been restarted
                self.kv_mgr.forget_lookup(self.bootstrap_addr)
            self._fail(str(completion.error))
            return
        self._advance(KVPoll.Success)
        logger.debug(
            "%d: fetched %d tokens, %d bytes in %d spans over %s, %.3f ms",
            self.bootstrap_room,
            self._tokens,
            completion.bytes,
            completion.spans,
            completion.path,
            completion.seconds * 1e3,
        )

    def _advance(self, status: int) -> None:
        if self._status == KVPoll.Failed:
            return
        self._status = status
        self.kv_mgr.publish_status(self.bootstrap_room, status)
        if status == KVPoll.Success:
            self.conclude_state = status

    def _fail(self, reason: str) -> None:
        if self._status in (KVPoll.Failed, KVPoll.Success):
            return
        self._reason = reason
        self._status = self.conclude_state = KVPoll.Failed
        self.kv_mgr.publish_status(self.bootstrap_room, self._status)

    def abort(self) -> None:
        """The request was aborted: nothing more is to be written to its pages."""
        self._fail("the decode server aborted the request")
        self.ensure_abort_notified()

    def ensure_abort_notified(self, *, force_arm: bool = False) -> None:
        """Gives the transfer up, if there is one.

        Args:
            force_arm: SGLang's parameter; whether pages may still be written to is always known.
        """
        if self._recv is not None:
            self.kv_mgr.give_up(self.bootstrap_room, self._recv)
            self.abort_notified = True
        elif self.bootstrap_infos is None:
            self._release()

    def _release(self) -> None:
        """Lets P go, which waits for this request and was never asked for its pages."""
        senders, self._senders = self._senders, []
        if not senders:
            return
        # Where P cannot be reached, it does not wait either.
        with contextlib.suppress(MooncakeConnectorError):
            self.kv_mgr.engine.recv(
                senders,
                tag_of(self.bootstrap_room),
                [],
                tokens=0,
                deadline=_RELEASE_DEADLINE,
                request=request_number(self.bootstrap_room),
                receiver_index=self._receiver_index,
                receiver_count=self._receiver_count,
            )

    def is_abort_release_safe(self) -> bool:
        """Whether nothing can write to the pages any more."""
        self.kv_mgr.collect()
        return self._recv is None

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

    def clear(self) -> None:
        """The scheduler is done with the request, or will be once its pages are safe."""
        self.ensure_abort_notified()
        self.kv_mgr.forget(self.bootstrap_room)

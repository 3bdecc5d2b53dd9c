# SPDX-License-Identifier: Apache-2.0
"""The half of the connector that lives in each vLLM worker, beside the KV cache.

It carries out the scheduler's orders of a step on this worker's engine and reports what ended.
Every call only queues work or collects results: the engine's own threads move the bytes.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorTransferResults

from mooncake_connector.config import ConnectorConfig, EngineConfig
from mooncake_connector.engine import Engine
from mooncake_connector.errors import MooncakeConnectorError, TransferTimeout
from mooncake_connector.pools import Pool
from mooncake_connector.transfers import Completion, Recv, Send, Transfer
from mooncake_connector.vllm.identity import model_fingerprint
from mooncake_connector.vllm.metadata import Load, Release, StepMetadata, WorkerAddress
from mooncake_connector.vllm.pools import describe_groups
from mooncake_connector.vllm.stats import TransferStats

if TYPE_CHECKING:
    import torch
    from vllm.config import VllmConfig
    from vllm.v1.kv_cache_interface import KVCacheConfig

logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Outgoing:
    """A send, and the two things that must both be true before its pages are given back.

    Attributes:
        request_id: the request whose pages it ships.
        transfer: the engine's send.
        tokens: how many tokens there will be.
        ready: how many of them the engine was told of.
        ended: nothing will read the pages any more.
        closed: the scheduler has finished with the request; it must not hear of it before that.
    """

    request_id: str
    transfer: Send
    tokens: int
    ready: int = 0
    ended: bool = False
    closed: bool = False


@dataclass(slots=True, eq=False)
class _Incoming:
    """A fetch of a request's KV; without a request id it is a mere release."""

    request_id: str | None
    transfer: Recv
    tokens: int = 0


class ConnectorWorker:
    """Carries out the scheduler's orders on one engine."""

    def __init__(self, vllm: VllmConfig, cache: KVCacheConfig, config: ConnectorConfig) -> None:
        """Starts this worker's engine.

        Raises:
            ConfigError: the engine's address cannot be used.
        """
        self._vllm = vllm
        self._cache = cache
        self._config = config
        self._rank: int = vllm.parallel_config.rank
        self._ranks: int = vllm.parallel_config.world_size
        self._engine = Engine(_engine_options(vllm, config))
        self._pools: dict[int, Pool] = {}
        self._granule = 1
        self._on_device = False
        self._outgoing: dict[str, _Outgoing] = {}
        self._incoming: dict[str, _Incoming] = {}
        # Completions name the transfer, not the request.
        self._running: dict[Transfer, _Outgoing | _Incoming] = {}
        self._results = KVConnectorTransferResults()
        self._stats = TransferStats()

    @property
    def engine(self) -> Engine:
        """This worker's engine."""
        return self._engine

    def address(self) -> WorkerAddress:
        """Where this worker's engine listens."""
        return WorkerAddress(self._engine.address, self._engine.instance_id)

    def register_kv_caches(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Registers this worker's KV cache, one pool for each KV cache group.

        Raises:
            UnsupportedError: the tensors are of a kind that cannot be described to the engine.
        """
        fingerprint = model_fingerprint(self._vllm.model_config, self._config.model_id)
        groups = describe_groups(self._vllm, self._cache, tensors, self._first_head, fingerprint)
        self._granule = groups.granule
        self._pools = {n: self._engine.register_pool(spec) for n, spec in groups.pools.items()}
        self._on_device = any(tensor.device.type != "cpu" for tensor in tensors.values())

    def _first_head(self, total_heads: int) -> int:
        """The first of a layer's KV heads that this worker's tensors hold."""
        from vllm.distributed.parallel_state import get_tensor_model_parallel_rank

        ranks: int = self._vllm.parallel_config.tensor_parallel_size
        rank: int = get_tensor_model_parallel_rank()
        return rank * total_heads // ranks

    # The steps of a step, in vLLM's order.

    def handle_preemptions(self, step: StepMetadata) -> None:
        """Takes back the pages of preempted requests, before the step overwrites them."""
        for request_id in step.rewound:
            outgoing = self._outgoing[request_id]
            if not outgoing.ended:
                outgoing.transfer.rewind(0)
            outgoing.ready = 0

    def start(self, step: StepMetadata) -> None:
        """Announces sends, tells their pages, and starts and stops fetches."""
        for request_id, opening in step.opened.items():
            transfer = self._engine.send(opening.tag, deadline=self._config.hold_timeout)
            outgoing = _Outgoing(request_id, transfer, opening.tokens)
            self._outgoing[request_id] = self._running[transfer] = outgoing
        for request_id, parts in step.appended.items():
            outgoing = self._outgoing[request_id]
            for part in parts if not outgoing.ended else ():
                outgoing.transfer.append(self._pools[part.group], part.pages, part.first_token)
        for request_id, load in step.loads.items():
            self._start_load(request_id, load)
        for request_id in step.cancelled:
            if (incoming := self._incoming.get(request_id)) is not None:
                incoming.transfer.cancel()
        for request_id, reason in step.failed.items():
            self._load_failed(request_id, reason)
        for release in step.releases:
            self._release(release)

    def _start_load(self, request_id: str, load: Load) -> None:
        try:
            transfer = self._engine.recv(
                load.addresses,
                load.tag,
                [
                    (self._pools[part.group], part.pages, self._granule_of(part.first_token))
                    for part in load.parts
                ],
                tokens=self._whole_granules(load.tokens),
                first_token=load.first_token,
                deadline=self._config.max_wait,
                request=load.request,
                receiver_index=self._rank,
                receiver_count=self._ranks,
            )
        except MooncakeConnectorError as error:
            self._load_failed(request_id, str(error))
            return
        incoming = _Incoming(request_id, transfer, load.tokens - load.first_token)
        self._incoming[request_id] = self._running[transfer] = incoming

    def _release(self, release: Release) -> None:
        try:
            transfer = self._engine.recv(
                release.addresses,
                release.tag,
                [],
                tokens=0,
                deadline=self._config.max_wait,
                request=release.request,
                receiver_index=self._rank,
                receiver_count=self._ranks,
            )
        except MooncakeConnectorError as error:
            # P gives the pages back on its own, only later.
            logger.debug("cannot release a prefilled request: %s", error)
            return
        self._running[transfer] = _Incoming(None, transfer)

    def save(self, step: StepMetadata) -> None:
        """Moves ready marks, since the step's forward pass is queued now; then ends sends."""
        event = _record_event() if self._on_device and step.ready else None
        for request_id, tokens in step.ready.items():
            outgoing = self._outgoing[request_id]
            # A granule is shipped when it is complete, or at the end as far as there is anything.
            ready = (
                self._whole_granules(tokens)
                if tokens == outgoing.tokens
                else self._granule_of(tokens)
            )
            if ready > outgoing.ready and not outgoing.ended:
                outgoing.ready = ready
                outgoing.transfer.mark_ready(ready, event)
        for request_id, windows in step.finished.items():
            outgoing = self._close(request_id)
            if not outgoing.ended:
                outgoing.transfer.finish(
                    windows=[(self._pools[w.group], w.pages, w.first_token) for w in windows]
                )
        for request_id, reason in step.aborted.items():
            outgoing = self._close(request_id)
            if not outgoing.ended:
                outgoing.transfer.abort(reason)

    def _close(self, request_id: str) -> _Outgoing:
        outgoing = self._outgoing[request_id]
        outgoing.closed = True
        self._report_sent(outgoing)
        return outgoing

    def _granule_of(self, token: int) -> int:
        """The first token of the granule in which a token lies."""
        return token - token % self._granule

    def _whole_granules(self, tokens: int) -> int:
        return -(-tokens // self._granule) * self._granule

    def results(self) -> KVConnectorTransferResults:
        """What ended since the last step. Each request is reported once."""
        for completion in self._engine.poll():
            ended = self._running.pop(completion.transfer, None)
            if isinstance(ended, _Outgoing):
                self._send_ended(ended, completion)
            elif isinstance(ended, _Incoming) and ended.request_id is not None:
                self._load_ended(ended.request_id, ended, completion)
        results, self._results = self._results, KVConnectorTransferResults()
        return results

    def _send_ended(self, outgoing: _Outgoing, completion: Completion) -> None:
        outgoing.ended = True
        self._report_sent(outgoing)
        if isinstance(completion.error, TransferTimeout):
            self._stats.record_expired_request()
        logger.debug(
            "%s: sent %d bytes (%s)",
            outgoing.request_id,
            completion.bytes,
            completion.error or "complete",
        )

    def _report_sent(self, outgoing: _Outgoing) -> None:
        if outgoing.ended and outgoing.closed:
            del self._outgoing[outgoing.request_id]
            self._results.finished_sending.add(outgoing.request_id)

    def _load_ended(self, request_id: str, incoming: _Incoming, completion: Completion) -> None:
        del self._incoming[request_id]
        if completion.error is not None:
            self._load_failed(request_id, str(completion.error))
            return
        self._results.finished_recving.add(request_id)
        self._stats.record_transfer(completion.seconds, completion.bytes, completion.spans)
        logger.debug(
            "%s: fetched %d tokens, %d bytes in %d spans over %s, %.3f ms",
            request_id,
            incoming.tokens,
            completion.bytes,
            completion.spans,
            completion.path,
            completion.seconds * 1e3,
        )

    def _load_failed(self, request_id: str, reason: str) -> None:
        """Reports the request as a whole: page ids would be ambiguous with several groups."""
        self._results.finished_recving.add(request_id)
        self._results.failed_recving.add(request_id)
        self._stats.record_failed_transfer()
        logger.warning("%s: its KV could not be fetched: %s", request_id, reason)

    def take_stats(self) -> TransferStats | None:
        """What happened since the last call."""
        return self._stats.take()

    def close(self) -> None:
        """Ends all transfers and the engine's threads."""
        self._engine.close()


def _engine_options(vllm: VllmConfig, config: ConnectorConfig) -> EngineConfig:
    """The worker's share of the options: with a fixed port, each worker takes the next one."""
    options = config.engine_options()
    if options.port == 0:
        return options
    parallel = vllm.parallel_config
    worker = parallel.data_parallel_index * parallel.world_size + parallel.rank
    return replace(options, port=options.port + worker)


def _record_event() -> torch.Event:
    """Marks what has been queued on the device so far: the pages are ready when it has passed."""
    import torch

    event = torch.Event()
    event.record()
    return event

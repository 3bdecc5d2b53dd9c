# SPDX-License-Identifier: Apache-2.0
"""The class that vLLM loads: which of its callbacks does what, in the order of vLLM's step."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
from support.vllm_doubles import (
    FullAttentionSpec,
    RecordingEngine,
    cache_of,
    new_request,
    step_output,
    vllm_config,
)
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorRole

from mooncake_connector.errors import ConfigError, UnsupportedError
from mooncake_connector.vllm import MooncakeConnector
from mooncake_connector.vllm import worker as worker_module


@pytest.fixture
def connectors(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """The two that vLLM makes: one in its scheduler, one in its worker."""
    monkeypatch.setattr(worker_module, "Engine", RecordingEngine)
    cache = cache_of(FullAttentionSpec(), FullAttentionSpec())
    halves = SimpleNamespace(
        scheduler=MooncakeConnector(vllm_config(), KVConnectorRole.SCHEDULER, cache),
        worker=MooncakeConnector(vllm_config(), KVConnectorRole.WORKER, cache),
    )
    halves.worker.worker._pools = {0: "pool 0", 1: "pool 1"}
    halves.engine = halves.worker.worker.engine
    yield halves
    halves.scheduler.shutdown()


def test_pages_are_told_early_and_shipped_only_after_wait_for_save(
    connectors: SimpleNamespace,
) -> None:
    """Until then the forward pass that fills them may not even be queued."""
    scheduler, worker = connectors.scheduler, connectors.worker
    scheduler.on_new_request(new_request(32, {"do_remote_decode": True, "transfer_id": "t"}))
    output = step_output(new={"r": (0, 32, ([7, 8], [5, 6]))})
    step = scheduler.build_connector_meta(output)
    worker.handle_preemptions(step)
    worker.bind_connector_metadata(step)
    worker.start_load_kv(None)
    worker.wait_for_layer_load("layer")
    worker.save_kv_layer("layer", None, None)
    (send,) = connectors.engine.sends
    assert [call[0] for call in send.calls] == ["append", "append"]
    worker.wait_for_save()
    assert [call[0] for call in send.calls] == ["append", "append", "mark_ready"]


def test_all_groups_are_loaded(connectors: SimpleNamespace) -> None:
    """Also one that vLLM's own prefix cache does not keep: its pages arrive like all others."""
    connectors.scheduler._kv_cache_config.prefix_cacheable_group_ids = (0,)
    assert connectors.scheduler.get_loaded_kv_cache_group_ids(new_request(9)) == (0, 1)


def test_steps_go_on_until_prefill_has_heard_of_an_abort(connectors: SimpleNamespace) -> None:
    """With no request left, vLLM asks this before it sleeps."""
    scheduler = connectors.scheduler
    lookup: Future[list[str]] = Future()
    scheduler.scheduler._decode._resolver.resolve = lambda *_: lookup
    request = new_request(40, {"do_remote_prefill": True, "transfer_id": "t"})
    assert not scheduler.has_pending_push_work()
    scheduler.on_new_request(request)
    assert scheduler.request_finished_all_groups(request, ([], [])) == (False, None)
    assert not scheduler.build_connector_meta(step_output()).releases
    assert scheduler.has_pending_push_work()
    lookup.set_result(["p:1"])
    assert scheduler.build_connector_meta(step_output()).releases
    assert not scheduler.has_pending_push_work()


def test_a_failed_fetch_is_reported_as_a_request_and_never_as_pages(
    connectors: SimpleNamespace,
) -> None:
    """With several groups, vLLM takes a reported page id for an error of its own."""
    scheduler, worker = connectors.scheduler, connectors.worker
    request = new_request(40, {"do_remote_prefill": True})
    scheduler.on_new_request(request)
    assert scheduler.get_num_new_matched_tokens(request, 0) == (39, True)
    blocks: Any = SimpleNamespace(get_block_ids=lambda: ([1, 2, 3], [4, 5, 6]))
    scheduler.update_state_after_alloc(request, blocks, 39)
    step = scheduler.build_connector_meta(step_output())
    worker.bind_connector_metadata(step)
    worker.start_load_kv(None)
    worker.wait_for_save()
    results = worker.get_transfer_results(set())
    assert (results.finished_recving, results.failed_recving) == ({"r"}, {"r"})
    assert worker.get_block_ids_with_load_errors() == set()
    scheduler.update_connector_output(results)
    assert scheduler.get_num_new_matched_tokens(request, 0) == (0, False), "it is fetched once"


def test_addresses_of_another_connector_are_refused(connectors: SimpleNamespace) -> None:
    """MultiConnector hands the first child's to all of them."""
    scheduler, worker = connectors.scheduler, connectors.worker
    with pytest.raises(UnsupportedError, match="List mooncake_connector before"):
        scheduler.set_xfer_handshake_metadata_pp_aware({(0, 0): SimpleNamespace(port=1)})
    scheduler.set_xfer_handshake_metadata_pp_aware({(0, 0): worker.get_handshake_metadata()})


def test_the_bootstrap_and_an_engine_cannot_share_a_port() -> None:
    options = {"port": 8997, "bootstrap_port": 8998}
    config = vllm_config(
        kv_transfer_config__kv_connector_extra_config=options, parallel_config__world_size=2
    )
    with pytest.raises(ConfigError, match="bootstrap_port=8998 is also where a worker's engine"):
        MooncakeConnector(config, KVConnectorRole.SCHEDULER, cache_of(FullAttentionSpec()))

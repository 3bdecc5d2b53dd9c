# SPDX-License-Identifier: Apache-2.0
"""What the scheduler's half orders, step by step, without an engine."""

from __future__ import annotations

import copy
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support.vllm_doubles import (
    FullAttentionSpec,
    SlidingWindowSpec,
    Status,
    cache_of,
    new_request,
    step_output,
)

from mooncake_connector.config import ConnectorConfig
from mooncake_connector.errors import PeerUnreachable
from mooncake_connector.vllm.decode import DecodeLedger
from mooncake_connector.vllm.metadata import StepMetadata
from mooncake_connector.vllm.prefill import PrefillLedger


class TestPrefill:
    def ledger(self, *specs: object) -> PrefillLedger:
        return PrefillLedger(cache_of(*(specs or [FullAttentionSpec()])), "http://p:1", "p:1/0")

    def written(self, ledger: PrefillLedger, output: Any = None) -> StepMetadata:
        step = StepMetadata()
        ledger.write(step, output or step_output())
        return step

    def test_a_request_is_announced_once_before_it_has_pages(self) -> None:
        ledger = self.ledger()
        ledger.new_request(new_request(40), {"transfer_id": "t"})
        assert self.written(ledger).opened["r"].tokens == 40
        assert not self.written(ledger).opened

    def test_chunks_bring_their_pages_and_move_the_mark(self) -> None:
        ledger = self.ledger()
        ledger.new_request(new_request(40), {"transfer_id": "t"})
        first = self.written(ledger, step_output(new={"r": (0, 20, ([7, 3],))}))
        (part,) = first.appended["r"]
        assert (part.pages.tolist(), part.first_token) == ([7, 3], 0)
        assert first.ready == {"r": 20}
        second = self.written(ledger, step_output(cached={"r": (20, 20, ([9],))}))
        (part,) = second.appended["r"]
        assert (part.pages.tolist(), part.first_token) == ([9], 32)
        assert second.ready == {"r": 40}

    def test_answer_tokens_are_not_handed_over(self) -> None:
        ledger = self.ledger()
        ledger.new_request(new_request(16), {"transfer_id": "t"})
        step = self.written(ledger, step_output(new={"r": (0, 16, ([7, 8],))}))
        assert step.appended["r"][0].pages.tolist() == [7]
        step = self.written(ledger, step_output(cached={"r": (16, 1, ([9],))}))
        assert not step.appended and not step.ready

    def test_preemption_takes_pages_back_and_starts_over(self) -> None:
        ledger = self.ledger()
        ledger.new_request(new_request(40), {"transfer_id": "t"})
        self.written(ledger, step_output(new={"r": (0, 20, ([7, 3],))}))
        step = self.written(ledger, step_output(cached={"r": (0, 20, ([5, 6],))}, preempted=("r",)))
        assert step.rewound == ["r"]
        assert step.appended["r"][0].pages.tolist() == [5, 6]
        assert step.appended["r"][0].first_token == 0

    def test_preemption_without_pages_is_nothing(self) -> None:
        ledger = self.ledger()
        ledger.new_request(new_request(40), {"transfer_id": "t"})
        assert not self.written(ledger, step_output(preempted=("r", "other"))).rewound

    def test_the_end_tells_the_client_where_the_kv_is(self) -> None:
        ledger = self.ledger()
        request = new_request(40)
        ledger.new_request(request, {"transfer_id": "t"})
        request.num_computed_tokens = 40
        keep, answer = ledger.request_finished(request, ([1, 2, 3],))
        assert keep
        assert answer == {
            "do_remote_prefill": True,
            "do_remote_decode": False,
            "transfer_id": "t",
            "remote_bootstrap_addr": "http://p:1",
            "remote_engine_id": "p:1/0",
        }
        assert list(self.written(ledger).finished) == ["r"]

    @pytest.mark.parametrize("transfer_id", [None, "", 5, ["t"]])
    def test_an_id_is_minted_where_there_is_none(self, transfer_id: object) -> None:
        ledger = self.ledger()
        request = new_request(40)
        ledger.new_request(request, {"transfer_id": transfer_id})
        request.num_computed_tokens = 40
        _, answer = ledger.request_finished(request, ([1, 2, 3],))
        assert answer is not None
        assert isinstance(answer["transfer_id"], str) and len(answer["transfer_id"]) == 32

    @pytest.mark.parametrize("computed", [0, 20, 40])
    def test_an_abort_is_told_and_pages_are_kept_until_it_is_carried_out(
        self, computed: int
    ) -> None:
        ledger = self.ledger()
        request = new_request(40)
        ledger.new_request(request, {"transfer_id": "t"})
        request.num_computed_tokens = computed
        request.status = Status.FINISHED_ABORTED
        assert ledger.request_finished(request, ([1, 2, 3],)) == (True, None)
        step = self.written(ledger)
        assert list(step.opened) == list(step.aborted) == ["r"]

    def test_other_requests_are_left_alone(self) -> None:
        ledger = self.ledger()
        assert ledger.request_finished(new_request(40), ([1],)) == (False, None)
        step = self.written(ledger, step_output(new={"other": (0, 20, ([7, 3],))}))
        assert step == StepMetadata()

    def test_windows_are_shipped_from_the_final_table_only(self) -> None:
        ledger = self.ledger(SlidingWindowSpec(), FullAttentionSpec())
        request = new_request(65)
        ledger.new_request(request, {"transfer_id": "t"})
        step = self.written(
            ledger, step_output(new={"r": (0, 64, ([4, 5, 6, 7], [11, 12, 13, 14]))})
        )
        assert [part.group for part in step.appended["r"]] == [1]
        request.num_computed_tokens = 64
        ledger.request_finished(request, ([0, 0, 6, 7], [11, 12, 13, 14]))
        (window,) = self.written(ledger).finished["r"]
        assert (window.group, window.pages.tolist(), window.first_token) == (0, [6, 7], 32)

    def test_with_windows_the_last_token_is_left_to_decode(self) -> None:
        """The prompt may be shared with other samples, so its list stays as it is."""
        ledger = self.ledger(SlidingWindowSpec())
        request = new_request(65)
        shared = request.prompt_token_ids
        ledger.new_request(request, {"transfer_id": "t"})
        assert len(shared) == 65
        assert request.prompt_token_ids == request._all_token_ids == shared[:-1]
        assert (request.num_prompt_tokens, request.max_tokens) == (64, 1)
        assert self.written(ledger).opened["r"].tokens == 64

    def test_both_sides_make_one_tag(self) -> None:
        """P's tag is made before it drops the prompt's last token."""
        prefill = self.ledger(SlidingWindowSpec())
        prefill.new_request(new_request(65), {"transfer_id": "t"})
        decode = Decode()
        decode.arrive(new_request(65))
        step = decode.allocate(new_request(65), ([1, 2, 3, 4],), external=64)
        assert step.loads["r"].tag == self.written(prefill).opened["r"].tag


class Decode:
    """A decode ledger whose lookups end when the test says so."""

    def __init__(self, *specs: object) -> None:
        config = ConnectorConfig()
        self.ledger = DecodeLedger(cache_of(*(specs or [FullAttentionSpec()])), config)
        self.ledger.close()
        self.lookup: Future[list[str]] = Future()
        self.ledger._resolver.resolve = lambda *_: self.lookup  # type: ignore[method-assign]
        self.lookup.set_result(["p:1", "p:2"])

    def unresolved(self) -> Future[list[str]]:
        self.lookup = Future()
        return self.lookup

    def arrive(self, request: Any) -> None:
        self.ledger.new_request(request, {"transfer_id": "t"})

    def write(self) -> StepMetadata:
        step = StepMetadata()
        self.ledger.write(step)
        return step

    def allocate(
        self, request: Any, tables: tuple[list[int], ...], external: int, local: int = 0
    ) -> StepMetadata:
        self.ledger.matched_tokens(request, local)
        blocks: Any = SimpleNamespace(get_block_ids=lambda: tables)
        self.ledger.allocated(request, blocks, external)
        return self.write()


class TestDecode:
    @pytest.mark.parametrize(
        ("tokens", "local", "wanted"),
        [(1, 0, 0), (2, 0, 1), (40, 0, 39), (40, 16, 23), (33, 32, 0), (34, 32, 1)],
    )
    def test_all_but_the_last_token_are_wanted(self, tokens: int, local: int, wanted: int) -> None:
        decode, request = Decode(), new_request(tokens)
        decode.arrive(request)
        for _ in range(2):  # vLLM may ask again
            assert decode.ledger.matched_tokens(request, local) == wanted

    def test_the_table_is_cut_by_token_positions(self) -> None:
        decode, request = Decode(FullAttentionSpec(), SlidingWindowSpec()), new_request(60)
        decode.arrive(request)
        tables = ([1, 2, 3, 4], [0, 0, 8, 9])
        load = decode.allocate(request, tables, external=43, local=16).loads["r"]
        assert (load.first_token, load.tokens, load.addresses) == (16, 59, ["p:1", "p:2"])
        full, window = load.parts
        assert (full.pages.tolist(), full.first_token) == ([2, 3, 4], 16)
        # The last token, 59, sees the tokens from 36 on.
        assert (window.pages.tolist(), window.first_token) == ([8, 9], 36)
        assert full.pages.dtype == np.int32

    def test_it_is_fetched_once(self) -> None:
        """vLLM allocates again after the fetch, after a failure and after a preemption."""
        decode, request = Decode(), new_request(40)
        decode.arrive(request)
        assert decode.allocate(request, ([1, 2, 3],), external=39).loads
        assert decode.ledger.matched_tokens(request, 0) == 0
        step = decode.allocate(request, ([1, 2, 3],), external=0)
        assert step == StepMetadata()

    def test_nothing_to_fetch_releases_prefill(self) -> None:
        decode, request = Decode(), new_request(33)
        decode.arrive(request)
        step = decode.allocate(request, ([1, 2, 3],), external=0, local=32)
        assert [release.addresses for release in step.releases] == [["p:1", "p:2"]]
        decode.ledger.request_finished(request)
        assert decode.write() == StepMetadata()

    def test_a_slow_lookup_delays_only_its_request(self) -> None:
        decode, slow, quick = Decode(), new_request(40, name="slow"), new_request(40, name="quick")
        lookup = decode.unresolved()
        decode.arrive(slow)
        assert not decode.allocate(slow, ([1, 2, 3],), external=39).loads
        decode.unresolved().set_result(["p:1"])
        decode.arrive(quick)
        assert list(decode.allocate(quick, ([4, 5, 6],), external=39).loads) == ["quick"]
        lookup.set_result(["p:1"])
        assert list(decode.write().loads) == ["slow"]

    def test_a_failed_lookup_fails_the_request(self) -> None:
        decode, request = Decode(), new_request(40)
        decode.unresolved().set_exception(PeerUnreachable("nobody there"))
        decode.arrive(request)
        step = decode.allocate(request, ([1, 2, 3],), external=39)
        assert step.failed == {"r": "nobody there"} and not step.loads

    def test_an_abort_before_pages_releases_prefill_and_reports_nothing(self) -> None:
        decode, request = Decode(), new_request(40)
        decode.arrive(request)
        decode.ledger.request_finished(request)
        assert decode.ledger.has_pending_work()
        step = decode.write()
        assert step.releases and not step.failed and not step.cancelled
        assert not decode.ledger.has_pending_work()

    def test_an_abort_during_the_lookup_is_reported(self) -> None:
        """vLLM waits for the report before it gives the pages back."""
        decode, request = Decode(), new_request(40)
        lookup = decode.unresolved()
        decode.arrive(request)
        decode.allocate(request, ([1, 2, 3],), external=39)
        decode.ledger.request_finished(request)
        step = decode.write()
        assert list(step.failed) == ["r"] and not step.loads
        lookup.set_result(["p:1"])
        assert decode.write().releases

    def test_an_abort_during_the_fetch_cancels_it(self) -> None:
        decode, request = Decode(), new_request(40)
        decode.arrive(request)
        decode.allocate(request, ([1, 2, 3],), external=39)
        decode.ledger.request_finished(request)
        assert decode.write().cancelled == ["r"]

    def test_the_normal_end_orders_nothing(self) -> None:
        decode, request = Decode(), new_request(40)
        decode.arrive(request)
        decode.allocate(request, ([1, 2, 3],), external=39)
        decode.ledger.fetched(["r"])
        decode.ledger.request_finished(request)
        assert decode.write() == StepMetadata()

    def test_a_missing_transfer_id_fails_the_request(self) -> None:
        decode, request = Decode(), new_request(40)
        decode.ledger.new_request(request, {})
        step = decode.allocate(request, ([1, 2, 3],), external=39)
        assert "transfer_id" in step.failed["r"]


def test_the_clients_parameters_are_never_changed() -> None:
    """The samples of one prompt share them."""
    params = {"do_remote_decode": True, "transfer_id": "t"}
    before = copy.deepcopy(params)
    prefill = PrefillLedger(cache_of(SlidingWindowSpec()), "http://p:1", "p:1/0")
    decode = Decode()
    for ledger in (prefill, decode.ledger):
        request = new_request(40, params)
        ledger.new_request(request, params)
        request.num_computed_tokens = 40
        ledger.request_finished(request, ([1, 2, 3],)) if ledger is prefill else None
    assert params == before

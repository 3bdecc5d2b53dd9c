# SPDX-License-Identifier: Apache-2.0
"""KV moves while prefill runs, and only what is missing at D."""

from __future__ import annotations

import time
from typing import Any

import pytest
from engine_process import Deployment, EngineProcess, started
from prompts import (
    ANSWER_TOKENS,
    decode_params,
    new_prompt,
    new_transfer_id,
    prefill_params,
    sequential,
)

Trio = tuple[EngineProcess, EngineProcess, EngineProcess]


@pytest.fixture(scope="module")
def trio(deployment: Deployment) -> Trio:
    prefill, decode, plain = started(deployment.prefill(), deployment.decode(), deployment.plain())
    return prefill, decode, plain


def test_bytes_are_shipped_before_the_last_step_of_prefill(trio: Trio) -> None:
    prefill, decode, plain = trio
    prompt = new_prompt(1500)
    prefill.hold()
    prefill_leg, decode_leg = submit_both(prefill, decode, prompt)
    before = prefill.bytes_sent()
    # Three chunks of thirteen. P then stands still: what arrives now left before its last step.
    prefill.step(3)
    wait_until(lambda: prefill.bytes_sent() > before, "no byte was shipped during prefill")
    prefill.go_on()
    prefill.answer(prefill_leg)
    expected = plain.answer(plain.submit(prompt, ANSWER_TOKENS)).tokens
    assert decode.answer(decode_leg).tokens == expected


@pytest.fixture(scope="module")
def forgetful_prefill(deployment: Deployment) -> EngineProcess:
    """Without a prefix cache, a preempted request does not find its old pages again."""
    return started(deployment.prefill(enable_prefix_caching=False))[0]


@pytest.mark.parametrize("steps", [1, 5, 11])
def test_preemption_between_chunks(
    trio: Trio, forgetful_prefill: EngineProcess, steps: int
) -> None:
    """The preempted request's pages are given to another one, and it gets new ones."""
    prefill, (_, decode, plain) = forgetful_prefill, trio
    prompt, other = new_prompt(1500), new_prompt(1500)
    prefill.hold()
    prefill_leg, decode_leg = submit_both(prefill, decode, prompt)
    prefill.step(steps)
    prefill.probe(preempt_all)
    intruder = prefill.submit(other)
    prefill.go_on()
    prefill.answer(prefill_leg)
    prefill.answer(intruder)
    expected = plain.answer(plain.submit(prompt, ANSWER_TOKENS)).tokens
    assert decode.answer(decode_leg).tokens == expected
    prefill.wait_idle()


def test_a_prefix_hit_at_decode_fetches_only_the_rest(trio: Trio) -> None:
    prefill, decode, plain = trio
    prompt = new_prompt(640)
    sequential(prefill, decode, prompt)
    longer = prompt + new_prompt(200)
    expected = plain.answer(plain.submit(longer, ANSWER_TOKENS)).tokens
    assert sequential(prefill, decode, longer).tokens == expected
    whole, rest = decode.fetched()[-2:]
    assert whole.tokens == 639
    # The hit ends with a page; the answer's tokens of the first request are not part of it.
    assert rest.tokens == 839 - 640
    assert rest.nbytes < whole.nbytes


def test_a_full_prefix_hit_at_decode_releases_prefill(trio: Trio) -> None:
    """All but the last token, which D computes in any case, are there: nothing is fetched."""
    prefill, decode, plain = trio
    prompt = new_prompt(20 * 32 + 1)
    expected = plain.answer(plain.submit(prompt, ANSWER_TOKENS)).tokens
    assert sequential(prefill, decode, prompt).tokens == expected
    fetched = len(decode.fetched())
    assert sequential(prefill, decode, prompt).tokens == expected
    assert len(decode.fetched()) == fetched
    prefill.wait_idle()


def test_a_prefix_hit_at_prefill(trio: Trio) -> None:
    """Nothing of the prompt but its tail is computed at P; all of it is shipped."""
    prefill, decode, plain = trio
    prompt = new_prompt(700)
    prefill.answer(prefill.submit(prompt))
    expected = plain.answer(plain.submit(prompt, ANSWER_TOKENS)).tokens
    assert sequential(prefill, decode, prompt).tokens == expected
    assert decode.fetched()[-1].tokens == 699


def test_samples_of_one_prompt(trio: Trio) -> None:
    """n=2 goes to both legs under one transfer id."""
    prefill, decode, plain = trio
    prompt = new_prompt(200)
    expected = plain.answer(plain.submit(prompt, ANSWER_TOKENS)).tokens
    greedy = {"n": 2, "temperature": 1.0, "top_k": 1}
    transfer = new_transfer_id()
    leg = decode.submit(
        prompt, ANSWER_TOKENS, kv=decode_params(prefill.bootstrap(), transfer), **greedy
    )
    prefill.answer(prefill.submit(prompt, kv=prefill_params(transfer), **greedy))
    assert decode.answer(leg).samples == [expected, expected]


def test_samples_under_a_transfer_id_of_prefills_choice(trio: Trio) -> None:
    """Only one of the samples' answers is relayed, so they must share the id."""
    prefill, decode, plain = trio
    prompt = new_prompt(200)
    expected = plain.answer(plain.submit(prompt, ANSWER_TOKENS)).tokens
    greedy = {"n": 2, "temperature": 1.0, "top_k": 1}
    first = prefill.answer(prefill.submit(prompt, kv=prefill_params(None), **greedy))
    relayed = first.kv_transfer_params
    assert relayed is not None
    leg = decode.submit(prompt, ANSWER_TOKENS, kv=relayed, **greedy)
    assert decode.answer(leg).samples == [expected, expected]
    prefill.wait_idle()


def test_prompts_under_one_transfer_id(trio: Trio) -> None:
    """A list of prompts, two of them equal, goes to both legs under one transfer id."""
    prefill, decode, plain = trio
    twice = new_prompt(150)
    prompts = [twice, new_prompt(90), twice, new_prompt(400)]
    expected = [plain.answer(plain.submit(one, ANSWER_TOKENS)).tokens for one in prompts]
    transfer = new_transfer_id()
    params = decode_params(prefill.bootstrap(), transfer)
    decode_legs = [decode.submit(one, ANSWER_TOKENS, kv=params) for one in prompts]
    prefill_legs = [prefill.submit(one, kv=prefill_params(transfer)) for one in prompts]
    for leg in prefill_legs:
        prefill.answer(leg)
    assert [decode.answer(leg).tokens for leg in decode_legs] == expected
    prefill.wait_idle()


def submit_both(
    prefill: EngineProcess, decode: EngineProcess, prompt: list[int]
) -> tuple[str, str]:
    """As examples/pd_proxy.py: both legs at once."""
    transfer = new_transfer_id()
    params = decode_params(prefill.bootstrap(), transfer)
    prefill_leg = prefill.submit(prompt, kv=prefill_params(transfer))
    return prefill_leg, decode.submit(prompt, ANSWER_TOKENS, kv=params)


def preempt_all(llm: Any) -> None:
    """Takes the pages of all running requests, as the scheduler does when it runs out of them."""
    scheduler = llm.llm_engine.engine_core.engine_core.scheduler
    running = list(scheduler.running)
    assert running
    scheduler.running.clear()
    for request in running:
        scheduler._preempt_request(request, time.monotonic())


def wait_until(condition: Any, problem: str, timeout: float = 20.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, problem
        time.sleep(0.01)

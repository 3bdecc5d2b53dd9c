# SPDX-License-Identifier: Apache-2.0
"""What fails, fails alone and in time, leaves no page behind, and the next request works."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from engine_process import (
    REQUEST_TIMEOUT,
    Deployment,
    EngineProcess,
    connector_worker,
    started,
)
from prompts import (
    ANSWER_TOKENS,
    decode_params,
    new_prompt,
    new_transfer_id,
    prefill_params,
    sequential,
)
from servers import free_port

# Short, so that the tests are; long enough for a busy machine.
SHORT = 3.0


@pytest.fixture(scope="module")
def engines(deployment: Deployment) -> tuple[EngineProcess, ...]:
    extra = {"unknown_timeout": SHORT, "bootstrap_timeout": SHORT}
    return started(
        deployment.prefill(extra=extra | {"hold_timeout": SHORT}),
        deployment.decode(extra=extra),
        deployment.plain(),
    )


@pytest.fixture(scope="module")
def forgiving_decode(deployment: Deployment) -> EngineProcess:
    """Computes by itself what it cannot fetch."""
    policy = {"kv_load_failure_policy": "recompute"}
    extra = {"unknown_timeout": 0.5, "bootstrap_timeout": SHORT}
    return started(deployment.decode(transfer=policy, extra=extra))[0]


@pytest.fixture(autouse=True)
def nothing_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test: no request, no page in use, and the pair still works."""
    yield
    if "engines" not in request.fixturenames:
        return
    prefill, decode, plain = request.getfixturevalue("engines")
    for engine in (prefill, decode):
        engine.go_on()
        engine.wait_idle()
    prompt = new_prompt(200)
    expected = plain.answer(plain.submit(prompt, ANSWER_TOKENS)).tokens
    assert sequential(prefill, decode, prompt).tokens == expected


def test_decode_waits_for_a_late_prefill(engines: tuple[EngineProcess, ...]) -> None:
    prefill, decode, plain = engines
    prompt, transfer = new_prompt(300), new_transfer_id()
    leg = decode.submit(prompt, ANSWER_TOKENS, kv=decode_params(prefill.bootstrap(), transfer))
    time.sleep(SHORT / 3)
    prefill.answer(prefill.submit(prompt, kv=prefill_params(transfer)))
    assert decode.answer(leg).tokens == plain.answer(plain.submit(prompt, ANSWER_TOKENS)).tokens


def test_prefill_waits_for_a_late_decode(engines: tuple[EngineProcess, ...]) -> None:
    prefill, decode, plain = engines
    prompt = new_prompt(300)
    relayed = prefill.answer(prefill.submit(prompt, kv=prefill_params(None))).kv_transfer_params
    time.sleep(SHORT / 3)
    answer = decode.answer(decode.submit(prompt, ANSWER_TOKENS, kv=relayed))
    assert answer.tokens == plain.answer(plain.submit(prompt, ANSWER_TOKENS)).tokens


def test_decode_without_prefill(engines: tuple[EngineProcess, ...]) -> None:
    prefill, decode, _ = engines
    params = decode_params(prefill.bootstrap(), new_transfer_id())
    assert failed(decode, decode.submit(new_prompt(300), ANSWER_TOKENS, kv=params))


def test_prefill_without_decode(engines: tuple[EngineProcess, ...]) -> None:
    """P gives the pages back on its own (see ``nothing_is_left``)."""
    prefill, _, _ = engines
    prefill.answer(prefill.submit(new_prompt(300), kv=prefill_params(None)))
    assert prefill.probe(pages_in_use) > 0


def test_prefill_aborted_between_chunks(engines: tuple[EngineProcess, ...]) -> None:
    prefill, decode, _ = engines
    prefill_leg, decode_leg = submit_both(prefill, decode, new_prompt(1500))
    prefill.step(4)
    prefill.abort(prefill_leg)
    prefill.go_on()
    assert failed(decode, decode_leg)


def test_prefill_aborted_before_its_first_page(engines: tuple[EngineProcess, ...]) -> None:
    prefill, decode, _ = engines
    prefill_leg, decode_leg = submit_both(prefill, decode, new_prompt(300))
    prefill.abort(prefill_leg)
    prefill.go_on()
    assert failed(decode, decode_leg)


def test_decode_aborted_while_it_fetches(engines: tuple[EngineProcess, ...]) -> None:
    prefill, decode, _ = engines
    prefill_leg, decode_leg = submit_both(prefill, decode, new_prompt(1500))
    prefill.step(4)
    wait_until_fetching(decode)
    decode.abort(decode_leg)
    decode.wait_idle()
    prefill.go_on()
    prefill.answer(prefill_leg)


def test_decode_aborted_after_prefill_and_before_it_has_pages(
    engines: tuple[EngineProcess, ...],
) -> None:
    """P hears of it at once: it does not hold the pages until it gives up."""
    prefill, decode, _ = engines
    prefill.probe(never_give_up)
    try:
        prompt = new_prompt(300)
        answer = prefill.answer(prefill.submit(prompt, kv=prefill_params(None)))
        decode.hold()
        leg = decode.submit(prompt, ANSWER_TOKENS, kv=answer.kv_transfer_params)
        decode.abort(leg)
        decode.go_on()
        prefill.wait_idle()
    finally:
        prefill.probe(give_up_soon)


@pytest.mark.parametrize(
    "params",
    [
        {"remote_bootstrap_addr": "http://127.0.0.1:9"},
        {"remote_bootstrap_addr": "http://192.0.2.1:8998"},
        {"remote_bootstrap_addr": "file:///etc/passwd"},
        {"remote_bootstrap_addr": None},
        {"transfer_id": None},
        {"transfer_id": ["not", "text"]},
    ],
    ids=lambda params: str(*params.values()),
)
def test_bad_parameters(engines: tuple[EngineProcess, ...], params: dict[str, Any]) -> None:
    prefill, decode, _ = engines
    good = decode_params(prefill.bootstrap(), new_transfer_id())
    assert failed(decode, decode.submit(new_prompt(100), ANSWER_TOKENS, kv=good | params))


def test_failures_are_recomputed_if_wished(
    engines: tuple[EngineProcess, ...], forgiving_decode: EngineProcess
) -> None:
    """With ``kv_load_failure_policy`` recompute, the client notices nothing."""
    (prefill, _, plain), decode = engines, forgiving_decode
    prompt = new_prompt(300)
    expected = plain.answer(plain.submit(prompt, ANSWER_TOKENS)).tokens
    params = decode_params(prefill.bootstrap(), new_transfer_id())
    assert decode.answer(decode.submit(prompt, ANSWER_TOKENS, kv=params)).tokens == expected

    prompt = new_prompt(1500)
    expected = plain.answer(plain.submit(prompt, ANSWER_TOKENS)).tokens
    prefill_leg, decode_leg = submit_both(prefill, decode, prompt)
    prefill.step(4)
    prefill.abort(prefill_leg)
    prefill.go_on()
    assert decode.answer(decode_leg).tokens == expected
    decode.wait_idle()


def test_decode_comes_long_after_prefill_gave_up(
    engines: tuple[EngineProcess, ...], forgiving_decode: EngineProcess
) -> None:
    """P has given the pages back; D says so, or computes the prompt itself, as it was told to."""
    prefill, decode, plain = engines
    prompt = new_prompt(300)
    relayed = prefill.answer(prefill.submit(prompt, kv=prefill_params(None))).kv_transfer_params
    prefill.wait_idle()
    assert failed(decode, decode.submit(prompt, ANSWER_TOKENS, kv=relayed))
    assert "no receiver came within" in decode.fetch_failures()[-1]
    answer = forgiving_decode.answer(forgiving_decode.submit(prompt, ANSWER_TOKENS, kv=relayed))
    assert answer.tokens == plain.answer(plain.submit(prompt, ANSWER_TOKENS)).tokens


def test_a_frozen_prefill_server(
    engines: tuple[EngineProcess, ...], forgiving_decode: EngineProcess
) -> None:
    """What waits for it fails soon, or is recomputed, and D serves others meanwhile.

    The pair works again when P does: see ``nothing_is_left``.
    """
    prefill, decode, plain = engines
    prompts = [new_prompt(1500), new_prompt(1500)]
    legs = [
        submit_both(prefill, server, prompt)
        for server, prompt in zip((decode, forgiving_decode), prompts, strict=True)
    ]
    late_params = decode_params(prefill.bootstrap(), new_transfer_id())
    prefill.step(8)
    for server in (decode, forgiving_decode):
        wait_until_fetching(server)
    prefill.freeze()
    try:
        own, late = new_prompt(200), new_prompt(300)
        expected = [plain.answer(plain.submit(one, ANSWER_TOKENS)).tokens for one in (own, late)]
        assert decode.answer(decode.submit(own, ANSWER_TOKENS)).tokens == expected[0]

        assert failed(decode, legs[0][1], timeout=30)
        assert "no sign of life" in decode.fetch_failures()[-1]
        recomputed = forgiving_decode.answer(legs[1][1], timeout=30).tokens
        assert recomputed == plain.answer(plain.submit(prompts[1], ANSWER_TOKENS)).tokens

        # Its bootstrap server does not answer either.
        assert failed(decode, decode.submit(late, ANSWER_TOKENS, kv=late_params), timeout=30)
        leg = forgiving_decode.submit(late, ANSWER_TOKENS, kv=late_params)
        assert forgiving_decode.answer(leg, timeout=30).tokens == expected[1]
    finally:
        prefill.thaw()
    prefill.go_on()
    for prefill_leg, _ in legs:
        prefill.answer(prefill_leg)
    forgiving_decode.wait_idle()


def test_another_model_is_refused(
    deployment: Deployment, engines: tuple[EngineProcess, ...]
) -> None:
    """Equal shapes are not enough: the tag is the same, and only the models' names differ."""
    prefill, _, _ = engines
    (decode,) = started(deployment.decode(extra={"model_id": "another-model"}))
    prompt = new_prompt(100)
    relayed = prefill.answer(prefill.submit(prompt, kv=prefill_params(None))).kv_transfer_params
    assert failed(decode, decode.submit(prompt, ANSWER_TOKENS, kv=relayed))
    (reason,) = decode.fetch_failures()
    assert "another-model" in reason and "llama|config" in reason


def test_another_key_is_refused(
    deployment: Deployment, engines: tuple[EngineProcess, ...], tmp_path: Path
) -> None:
    """Only the request fails, or is recomputed; whoever has the key is served before and after."""
    _, _, plain = engines
    right, wrong = ({"key_file": write_key(tmp_path / name)} for name in ("right", "wrong"))
    recompute = {"kv_load_failure_policy": "recompute"}
    prefill, decode, stranger, forgiving = started(
        deployment.prefill(extra={**right, "hold_timeout": SHORT}),
        deployment.decode(extra=right),
        deployment.decode(extra=wrong),
        deployment.decode(extra=wrong, transfer=recompute),
    )
    for _ in range(2):
        prompt = new_prompt(300)
        expected = plain.answer(plain.submit(prompt, ANSWER_TOKENS)).tokens
        assert sequential(prefill, decode, prompt).tokens == expected
        assert sequential(prefill, forgiving, prompt).tokens == expected
        assert sequential(prefill, stranger, prompt).finish_reason == "error"
        assert stranger.answer(stranger.submit(prompt, ANSWER_TOKENS)).tokens == expected
    assert len(decode.fetched()) == 2
    for refused in (stranger, forgiving):
        assert not refused.fetched()
        assert all(
            "ask for the same one here (key_file)" in why for why in refused.fetch_failures()
        )
        assert len(refused.fetch_failures()) == 2
    prefill.wait_idle()


def test_a_dead_prefill_server(deployment: Deployment, engines: tuple[EngineProcess, ...]) -> None:
    """Killed in the middle: D fails that request; a new P at the same address works at once."""
    _, decode, plain = engines
    extra = {"bootstrap_port": free_port()}
    (prefill,) = started(deployment.prefill(extra=extra))
    _, decode_leg = submit_both(prefill, decode, new_prompt(1500))
    prefill.step(4)
    prefill.kill()
    assert failed(decode, decode_leg)
    decode.wait_idle()

    (restarted,) = started(deployment.prefill(extra=extra))
    prompt = new_prompt(300)
    expected = plain.answer(plain.submit(prompt, ANSWER_TOKENS)).tokens
    assert sequential(restarted, decode, prompt).tokens == expected


def write_key(path: Path) -> str:
    """A new key in a file that nobody else can read."""
    path.touch(mode=0o600)
    path.write_text(secrets.token_hex(32))
    return str(path)


def failed(decode: EngineProcess, leg: str, timeout: float = REQUEST_TIMEOUT) -> bool:
    """Whether the request ends in an error, and not with an answer."""
    answer = decode.answer(leg, timeout)
    return answer.finish_reason == "error" and not answer.tokens


def submit_both(
    prefill: EngineProcess, decode: EngineProcess, prompt: list[int]
) -> tuple[str, str]:
    """Both legs at once; P takes no step yet."""
    prefill.hold()
    transfer = new_transfer_id()
    params = decode_params(prefill.bootstrap(), transfer)
    leg = prefill.submit(prompt, kv=prefill_params(transfer))
    return leg, decode.submit(prompt, ANSWER_TOKENS, kv=params)


def wait_until_fetching(decode: EngineProcess) -> None:
    deadline = time.monotonic() + 20
    while not decode.probe(fetches):
        assert time.monotonic() < deadline, "the decode side does not fetch"
        time.sleep(0.01)


def fetches(llm: Any) -> int:
    """Fetches that are running."""
    return len(connector_worker(llm)._incoming)


def pages_in_use(llm: Any) -> int:
    pool = llm.llm_engine.engine_core.engine_core.scheduler.kv_cache_manager.block_pool
    return int(pool.num_gpu_blocks - 1 - pool.get_num_free_blocks())


def never_give_up(llm: Any) -> None:
    set_hold_timeout(llm, 600.0)


def give_up_soon(llm: Any) -> None:
    set_hold_timeout(llm, SHORT)


def set_hold_timeout(llm: Any, seconds: float) -> None:
    """For the requests from now on."""
    worker = connector_worker(llm)
    worker._config = replace(worker._config, hold_timeout=seconds)

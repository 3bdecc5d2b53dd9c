# SPDX-License-Identifier: Apache-2.0
"""Prefill here, decode there: the answer is that of one plain engine, for every kind of model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from engine_process import Deployment, EngineProcess, connector_worker, started
from prompts import (
    ANSWER_TOKENS,
    decode_params,
    new_prompt,
    new_transfer_id,
    prefill_params,
    sequential,
)

# Shorter than a page, around its edges, exact multiples, several chunks.
LENGTHS = (1, 2, 5, 31, 32, 33, 64, 100, 128, 129, 300, 777, 1500)
# A window of 256 tokens begins on a page's edge for some of these.
WINDOW_LENGTHS = (5, 33, 255, 256, 257, 287, 288, 319, 320, 321, 777, 1500)


@pytest.mark.parametrize(
    ("prefill_block", "decode_block"), [(32, 32), (64, 64), (128, 128), (32, 128), (128, 32)]
)
def test_block_sizes(deployment: Deployment, prefill_block: int, decode_block: int) -> None:
    prefill, decode, plain = started(
        deployment.prefill(block_size=prefill_block),
        deployment.decode(block_size=decode_block),
        deployment.plain(),
    )
    check_equal(prefill, decode, plain, LENGTHS)


@pytest.mark.parametrize(("prefill_block", "decode_block"), [(32, 32), (32, 128), (128, 32)])
def test_sliding_windows(deployment: Deployment, prefill_block: int, decode_block: int) -> None:
    prefill, decode, plain = started(
        deployment.prefill("gemma3", block_size=prefill_block),
        deployment.decode("gemma3", block_size=decode_block),
        deployment.plain("gemma3"),
    )
    check_equal(prefill, decode, plain, WINDOW_LENGTHS)


@pytest.fixture(scope="module")
def latent_trio(deployment: Deployment) -> tuple[EngineProcess, EngineProcess, EngineProcess]:
    """Engines of an MLA model. Some of vLLM's CPU kernels for MLA cannot prefill in chunks."""
    options = {"dtype": "bfloat16", "max_num_batched_tokens": 2048}
    prefill, decode, plain = started(
        deployment.prefill("mla", **options),
        deployment.decode("mla", **options),
        deployment.plain("mla", **options),
    )
    return prefill, decode, plain


def test_latents_arrive(latent_trio: tuple[EngineProcess, ...]) -> None:
    """MLA: the two caches hold the same latents. (For answers, see below.)"""
    prefill, decode, _ = latent_trio
    for engine in (prefill, decode):
        engine.probe(record_pages)
    for length in LENGTHS[1:]:
        sequential(prefill, decode, new_prompt(length))
        sent, fetched = (engine.probe(recorded_rows, length - 1) for engine in (prefill, decode))
        assert sent.any(axis=(0, 2)).all()
        assert (sent == fetched).all(), length


def test_latents_answer_like_a_prefix_hit(latent_trio: tuple[EngineProcess, ...]) -> None:
    """MLA on the CPU rounds differently with a prefix hit than without one, by itself.

    So the answer is compared with a hit's. Hits end with a page, hence the lengths.
    """
    prefill, decode, plain = latent_trio
    if not plain.probe(has_prefix_cache):
        pytest.skip("vLLM has no prefix cache for MLA on this kind of CPU")
    page = plain.probe(block_size)
    for pages in (1, 2, 5, 9):
        prompt = new_prompt(pages * page + 1)
        plain.answer(plain.submit(prompt, ANSWER_TOKENS))
        expected = plain.answer(plain.submit(prompt, ANSWER_TOKENS)).tokens
        assert sequential(prefill, decode, prompt).tokens == expected


def test_both_roles_in_one_server(deployment: Deployment) -> None:
    """Two kv_both engines take turns."""
    first, second, plain = started(
        deployment.prefill(role="kv_both"), deployment.prefill(role="kv_both"), deployment.plain()
    )
    check_equal(first, second, plain, (33, 300))
    check_equal(second, first, plain, (33, 300))


@pytest.mark.parametrize("model", ["llama", "gemma3"])
def test_a_connector_that_moves_nothing_is_noticed(deployment: Deployment, model: str) -> None:
    """The negative control: without it, equal answers would prove nothing."""
    liar = {"kv_connector": "LyingConnector", "kv_connector_module_path": "lying_connector"}
    prefill, decode, plain = started(
        deployment.prefill(model), deployment.decode(model, transfer=liar), deployment.plain(model)
    )
    for length in (33, 100, 300, 777):
        prompt = new_prompt(length)
        expected = plain.answer(plain.submit(prompt, ANSWER_TOKENS)).tokens
        assert sequential(prefill, decode, prompt).tokens != expected, length


def check_equal(
    prefill: EngineProcess, decode: EngineProcess, plain: EngineProcess, lengths: tuple[int, ...]
) -> None:
    """Through both ways of dispatch; afterwards no request and no page is left anywhere."""
    before = len(decode.fetched())
    for run in (sequential, concurrent):
        check_answers(run, prefill, decode, plain, lengths)
    with_something_to_fetch = sum(length > 1 for length in lengths)
    assert len(decode.fetched()) - before == 2 * with_something_to_fetch
    for engine in (prefill, decode):
        engine.wait_idle()


def check_answers(
    run: Callable[..., object],
    prefill: EngineProcess,
    decode: EngineProcess,
    plain: EngineProcess,
    lengths: tuple[int, ...],
) -> None:
    for length in lengths:
        prompt = new_prompt(length)
        expected = plain.answer(plain.submit(prompt, ANSWER_TOKENS)).tokens
        assert run(prefill, decode, prompt).tokens == expected, (length, run)  # type: ignore[attr-defined]


def concurrent(prefill: EngineProcess, decode: EngineProcess, prompt: list[int]) -> object:
    """As examples/pd_proxy.py: both legs at once."""
    transfer = new_transfer_id()
    params = decode_params(prefill.bootstrap(), transfer)
    decode_leg = decode.submit(prompt, ANSWER_TOKENS, kv=params)
    prefill_leg = prefill.submit(prompt, kv=prefill_params(transfer))
    prefill.answer(prefill_leg)
    return decode.answer(decode_leg)


def record_pages(llm: Any) -> None:
    """From now on, notes the pages of the request that is sent or fetched last."""
    worker = connector_worker(llm)
    start = worker.start

    def recording_start(step: Any) -> None:
        parts = [load.parts for load in step.loads.values()] + list(step.appended.values())
        if parts:
            worker.recorded_pages = parts[-1][0].pages
        start(step)

    worker.start = recording_start


def recorded_rows(llm: Any, tokens: int) -> Any:
    """The cached rows of the recorded pages' first tokens: [layers, tokens, content]."""
    context = llm.llm_engine.vllm_config.compilation_config.static_forward_context
    pages = connector_worker(llm).recorded_pages
    caches = [layer.kv_cache for layer in context.values()]
    rows = [cache[pages].reshape(-1, cache.shape[-1])[:tokens] for cache in caches]
    return np.stack([row.view(torch.uint16).numpy() for row in rows])


def has_prefix_cache(llm: Any) -> bool:
    """Whether an engine keeps pages for later prompts."""
    return bool(llm.llm_engine.vllm_config.cache_config.enable_prefix_caching)


def block_size(llm: Any) -> int:
    """Tokens of a page."""
    return int(llm.llm_engine.vllm_config.cache_config.block_size)

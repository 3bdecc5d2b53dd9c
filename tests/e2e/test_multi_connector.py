# SPDX-License-Identifier: Apache-2.0
"""Beside another connector, inside vLLM's MultiConnector."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from engine_process import Deployment, EngineProcess, started
from prompts import ANSWER_TOKENS, new_prompt, sequential

Trio = tuple[EngineProcess, EngineProcess, EngineProcess]


@pytest.fixture(scope="module")
def trio(deployment: Deployment, tmp_path_factory: pytest.TempPathFactory) -> Trio:
    """D asks vLLM's disk cache first. It has no prefix cache, so it asks it for all it knows."""
    options = {"max_num_batched_tokens": 2048, "enable_prefix_caching": False}
    prefill, decode, plain = started(
        deployment.prefill(others=[disk_cache(tmp_path_factory, "prefill")], **options),
        deployment.decode(others=[disk_cache(tmp_path_factory, "decode")], **options),
        deployment.plain(),
    )
    return prefill, decode, plain


def disk_cache(tmp_path_factory: pytest.TempPathFactory, name: str) -> dict[str, Any]:
    folder: Path = tmp_path_factory.mktemp(name)
    return {
        "kv_connector": "ExampleConnector",
        "kv_role": "kv_both",
        "kv_connector_extra_config": {"shared_storage_path": str(folder)},
    }


def test_answers(trio: Trio) -> None:
    prefill, decode, plain = trio
    for length in (1, 5, 32, 33, 300, 777):
        prompt = new_prompt(length)
        expected = plain.answer(plain.submit(prompt, ANSWER_TOKENS)).tokens
        before = len(decode.fetched())
        assert sequential(prefill, decode, prompt).tokens == expected, length
        assert len(decode.fetched()) - before == (length > 1)
    for engine in (prefill, decode):
        engine.wait_idle()


def test_what_another_connector_loads_is_not_fetched_and_prefill_is_released(trio: Trio) -> None:
    """D keeps what it computes by itself on disk, and finds it there the next time."""
    prefill, decode, plain = trio
    prompt = new_prompt(300)
    expected = plain.answer(plain.submit(prompt, ANSWER_TOKENS)).tokens
    assert decode.answer(decode.submit(prompt, ANSWER_TOKENS)).tokens == expected
    before = len(decode.fetched())
    assert sequential(prefill, decode, prompt).tokens == expected
    assert len(decode.fetched()) == before
    for engine in (prefill, decode):
        engine.wait_idle()

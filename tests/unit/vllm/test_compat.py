# SPDX-License-Identifier: Apache-2.0
"""Versions and features: what is refused says why."""

from __future__ import annotations

import logging
import sys
from typing import Any

import pytest
from support.vllm_doubles import FullAttentionSpec, SlidingWindowSpec, cache_of, vllm_config

from mooncake_connector.errors import UnsupportedError
from mooncake_connector.vllm import compat


@pytest.mark.parametrize("version", ["0.31.0", "0.32.0+cpu", "0.32.1rc1"])
def test_supported_versions(version: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        compat.require_supported_version(version)
    assert not caplog.records


@pytest.mark.parametrize("version", ["0.30.9", "0.11.0"])
def test_old_versions_are_refused(version: str) -> None:
    with pytest.raises(UnsupportedError, match=r"needs vLLM 0\.31 or newer"):
        compat.require_supported_version(version)


@pytest.mark.parametrize("version", ["0.33.0", "1.0.0", "dev"])
def test_unknown_versions_are_warned_of(version: str, caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("mooncake_connector").propagate = True
    with caplog.at_level(logging.WARNING):
        compat.require_supported_version(version)
    assert version in caplog.text


class MambaSpec:
    """Named as vLLM's."""


class UniformTypeKVCacheSpecs:
    """Named as vLLM's: layers of one group that differ in size."""

    def __init__(self, *specs: object) -> None:
        self.kv_cache_specs = dict(enumerate(specs))


def test_peer_hits_have_no_label_where_vllm_knows_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm.v1.metrics.cache_hit_source", None)
    assert compat.cache_hit_source() is None


def test_a_plain_set_up_is_supported() -> None:
    cache = cache_of(FullAttentionSpec(), SlidingWindowSpec())
    compat.require_supported_features(vllm_config(), cache)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model_config__is_multimodal_model": True}, "multimodal"),
        ({"model_config__enable_sleep_mode": True}, "sleep mode"),
        ({"speculative_config": object()}, "draft models"),
        ({"parallel_config__decode_context_parallel_size": 2}, "decode context"),
        ({"parallel_config__prefill_context_parallel_size": 2}, "prefill context"),
        ({"cache_config__cache_dtype": "fp8"}, "--kv-cache-dtype fp8"),
        ({"aux_output_config__enable_return_routed_experts": True}, "routed-experts"),
    ],
)
def test_untested_features_are_refused(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(UnsupportedError, match=reason):
        compat.require_supported_features(vllm_config(**change), cache_of())


def test_all_reasons_are_named_at_once() -> None:
    cache = cache_of(FullAttentionSpec(), UniformTypeKVCacheSpecs(FullAttentionSpec(), MambaSpec()))
    config = vllm_config(speculative_config=object())
    with pytest.raises(UnsupportedError, match=r"draft models.*group 1 is of kind MambaSpec"):
        compat.require_supported_features(config, cache)


def test_windows_are_recognised() -> None:
    uniform = UniformTypeKVCacheSpecs(FullAttentionSpec(), FullAttentionSpec())
    assert compat.window_of(SlidingWindowSpec()) == 24
    assert compat.window_of(uniform) is None

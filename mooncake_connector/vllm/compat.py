# SPDX-License-Identifier: Apache-2.0
"""What this adapter supports of vLLM: versions, features, kinds of KV cache.

Everything that has not been tested is refused at start with a reason. A server that starts and
then answers wrongly is the worst that a connector can do.
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Any

from mooncake_connector.errors import UnsupportedError

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.kv_cache_interface import KVCacheConfig, KVCacheSpec

OLDEST_VERSION = (0, 31)
NEWEST_TESTED_VERSION = (0, 32)

# Cache types whose bytes mean the same on both sides without scales or packing beside them.
_PLAIN_CACHE_DTYPES = frozenset({"auto", "float16", "half", "bfloat16", "float", "float32"})
_PAGED_SPECS = frozenset({"FullAttentionSpec", "MLAAttentionSpec"})
_WINDOWED_SPECS = frozenset({"SlidingWindowSpec"})

logger = logging.getLogger(__name__)


def require_supported_version(version: str) -> None:
    """Raises UnsupportedError for a vLLM that is too old; warns of one newer than was tested."""
    match = re.match(r"(\d+)\.(\d+)", version)
    if match is None:
        logger.warning(
            "vLLM %s: cannot tell its version; going on as if it were supported", version
        )
        return
    found = (int(match[1]), int(match[2]))
    if found < OLDEST_VERSION:
        raise UnsupportedError(
            f"vLLM {version} is not supported: mooncake_connector needs vLLM "
            f"{_dotted(OLDEST_VERSION)} or newer (tested up to {_dotted(NEWEST_TESTED_VERSION)}). "
            "Upgrade vLLM, or remove --kv-transfer-config."
        )
    if found > NEWEST_TESTED_VERSION:
        logger.warning(
            "vLLM %s is newer than mooncake_connector was tested with (%s)",
            version,
            _dotted(NEWEST_TESTED_VERSION),
        )


def cache_hit_source() -> Any:
    """The label for tokens that a peer computed; None in vLLM 0.31, which has no such labels."""
    try:
        from vllm.v1.metrics.cache_hit_source import CacheHitSource
    except ModuleNotFoundError:
        return None
    return CacheHitSource.P2P


def require_supported_features(config: VllmConfig, cache: KVCacheConfig) -> None:
    """Raises UnsupportedError that names everything in this set-up that was never tested."""
    reasons = _unsupported_options(config)
    for number, group in enumerate(cache.transfer_groups):
        for name in {type(spec).__name__ for spec in layer_specs(group.kv_cache_spec).values()}:
            if name not in _PAGED_SPECS | _WINDOWED_SPECS:
                reasons.append(f"KV cache group {number} is of kind {name}")
    if reasons:
        raise UnsupportedError(
            "mooncake_connector does not support this set-up yet: "
            + "; ".join(reasons)
            + ". Change these options, or use another KV connector."
        )


def _unsupported_options(config: VllmConfig) -> list[str]:
    model, parallel = config.model_config, config.parallel_config
    cache_dtype = config.cache_config.cache_dtype
    checks = {
        "multimodal models": model.is_multimodal_model,
        "encoder-decoder models": model.is_encoder_decoder,
        "sleep mode (--enable-sleep-mode)": model.enable_sleep_mode,
        "draft models and MTP (--speculative-config)": config.speculative_config is not None,
        "decode context parallelism": parallel.decode_context_parallel_size > 1,
        "prefill context parallelism": parallel.prefill_context_parallel_size > 1,
        f"--kv-cache-dtype {cache_dtype}": cache_dtype not in _PLAIN_CACHE_DTYPES,
        "--enable-return-routed-experts": _returns_routed_experts(config),
    }
    return [name for name, present in checks.items() if present]


def _returns_routed_experts(config: VllmConfig) -> bool:
    """The option moved between the releases that we support."""
    holders = (config.model_config, getattr(config, "aux_output_config", None))
    return any(getattr(holder, "enable_return_routed_experts", False) for holder in holders)


def layer_specs(spec: KVCacheSpec) -> dict[str, KVCacheSpec]:
    """The cache spec of each layer, keyed by name where the layers of a group differ."""
    per_layer = getattr(spec, "kv_cache_specs", None)
    return dict(per_layer) if per_layer else {"": spec}


def window_of(spec: KVCacheSpec) -> int | None:
    """How many tokens a group's sliding window holds; None if no page is ever given back early."""
    windows = [
        one.sliding_window
        for one in layer_specs(spec).values()
        if type(one).__name__ in _WINDOWED_SPECS
    ]
    return max(windows, default=None)


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(str(number) for number in version)

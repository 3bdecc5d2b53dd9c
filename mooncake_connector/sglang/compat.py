# SPDX-License-Identifier: Apache-2.0
"""What this adapter supports of SGLang: releases and features.

SGLang's interface for transfer backends changes with most of its releases, so everything that this
adapter uses of it is listed here, checked before it is used, and reported by name. Features that
were never tested are refused at start with a reason.
"""

from __future__ import annotations

import importlib
import inspect
from typing import TYPE_CHECKING, Any, Final

from mooncake_connector.errors import UnsupportedError

if TYPE_CHECKING:
    from sglang.srt.disaggregation.base import KVArgs

TESTED_VERSIONS: Final = ("0.5.23",)

# Module -> names in it; a name after a dot belongs to the class before it.
USED_NAMES: Final = {
    "sglang.srt.configs.model_config": (
        "ModelConfig.from_server_args",
        "ModelConfig.get_total_num_kv_heads",
    ),
    "sglang.srt.disaggregation.base.conn": (
        "BaseKVBootstrapServer",
        "BaseKVReceiver.is_abort_release_safe",
        "BaseKVReceiver.supports_host_destination",
        "BaseKVSender.should_send_kv_chunk",
        "BaseKVSender.mark_prefill_complete",
        "BaseKVSender.get_max_transfer_tokens",
        "BaseKVSender.pop_decode_prefix_len",
        "BaseKVManager.should_verify_kv_checksum",
        "BaseKVManager.supports_deferred_decode_kv_release",
        "BaseKVManager.supports_host_destination",
        "BaseKVManager.supports_role_switch",
        "BaseKVManager.teardown",
        "KVPoll.Failed",
        "KVPoll.Bootstrapping",
        "KVPoll.WaitingForInput",
        "KVPoll.Transferring",
        "KVPoll.Success",
        "KVTransferDestination.DEVICE",
        "KVTransferDestination.HOST",
        "KVTransferMetric",
        "StateType.DSA",
        "StateType.MAMBA",
        "StateType.SWA",
    ),
    "sglang.srt.disaggregation.common.conn": (
        "CommonKVManager._ensure_prefill_recompute_executor",
        "CommonKVManager._resolve_rank_mapping",
        "CommonKVManager._sync_bootstrap_port_across_nodes",
        "CommonKVManager.clear_deferred_abort_state",
        "CommonKVManager.is_abort_release_safe",
        "CommonKVManager.register_to_bootstrap",
        "CommonKVManager.submit_prefill_recompute",
        "CommonKVManager.try_ensure_parallel_info",
        "KVTransferError",
        "PrefillServerInfo",
    ),
    "sglang.srt.disaggregation.pp_consensus_store": ("PPConsensusStore.close",),
    "sglang.srt.disaggregation.utils": (
        "DisaggregationMode.DECODE",
        "DisaggregationMode.PREFILL",
        "KVClassType.BOOTSTRAP_SERVER",
        "KVClassType.KVARGS",
        "KVClassType.MANAGER",
        "KVClassType.RECEIVER",
        "KVClassType.SENDER",
        "TransferBackend._value2member_map_",
        "get_kv_class",
    ),
    "sglang.srt.distributed.utils": ("get_pp_indices",),
    "sglang.srt.environ": (
        "envs.SGLANG_DISAGGREGATION_BOOTSTRAP_TIMEOUT",
        "envs.SGLANG_DISAGGREGATION_FORCE_QUERY_PREFILL_DP_RANK",
        "envs.SGLANG_DISAGGREGATION_WAITING_TIMEOUT",
    ),
    "sglang.srt.plugins.hook_registry": ("HookRegistry.register", "HookType.AROUND"),
    "sglang.srt.runtime_context": (
        "get_device",
        "get_disagg",
        "get_memory",
        "get_parallel",
        "get_serving",
    ),
    "sglang.srt.server_args": (
        "DISAGG_TRANSFER_BACKEND_CHOICES",
        "add_disagg_transfer_backend_choices",
    ),
    "sglang.srt.utils.network": ("NetworkAddress.parse",),
}

# Function -> parameters that we pass to it or that it passes to us, in this order.
USED_PARAMETERS: Final = {
    "sglang.srt.disaggregation.base.conn:BaseKVManager.__init__": (
        "self",
        "args",
        "disaggregation_mode",
        "server_args",
        "is_mla_backend",
    ),
    "sglang.srt.disaggregation.base.conn:BaseKVSender.__init__": (
        "self",
        "mgr",
        "bootstrap_addr",
        "bootstrap_room",
        "req_has_disagg_prefill_dp_rank",
    ),
    "sglang.srt.disaggregation.base.conn:BaseKVSender.init": (
        "self",
        "num_kv_indices",
        "aux_index",
    ),
    "sglang.srt.disaggregation.base.conn:BaseKVSender.send": (
        "self",
        "kv_indices",
        "state_indices",
        "num_kv_tokens",
    ),
    "sglang.srt.disaggregation.base.conn:BaseKVReceiver.__init__": (
        "self",
        "mgr",
        "bootstrap_addr",
        "bootstrap_room",
    ),
    "sglang.srt.disaggregation.base.conn:BaseKVReceiver.init": ("self", "prefill_dp_rank"),
    "sglang.srt.disaggregation.base.conn:BaseKVReceiver.send_metadata": (
        "self",
        "kv_indices",
        "aux_index",
        "state_indices",
        "decode_prefix_len",
        "destination",
    ),
    "sglang.srt.disaggregation.base.conn:BaseKVBootstrapServer.__init__": ("self", "host", "port"),
    "sglang.srt.disaggregation.common.conn:CommonKVManager.is_abort_release_safe": (
        "self",
        "bootstrap_room",
        "required_acks",
    ),
    "sglang.srt.disaggregation.utils:get_kv_class": ("transfer_backend", "class_type"),
    "sglang.srt.distributed.utils:get_pp_indices": ("num_hidden_layers", "pp_rank", "pp_size"),
}

USED_PREFILL_INFO: Final = frozenset(
    {
        "attn_tp_size",
        "attn_cp_size",
        "dp_size",
        "pp_size",
        "page_size",
        "kv_cache_dtype",
        "follow_bootstrap_room",
        "prefill_http_port",
        "target_tp_ranks",
        "target_pp_ranks",
    }
)


def differences() -> list[str]:
    """What this adapter uses and this SGLang does not have; empty if it has everything."""
    found = []
    for module_name, names in USED_NAMES.items():
        try:
            module = importlib.import_module(module_name)
        except ImportError as error:
            found.append(f"{module_name} cannot be imported: {error}")
            continue
        found += [
            f"{module_name}.{name} is missing"
            for name in names
            if not _has(module, name.split("."))
        ]
    if not found:
        found += [
            f"{function}{_parameters(function)} was {expected}"
            for function, expected in USED_PARAMETERS.items()
            if _parameters(function) != expected
        ]
        from sglang.srt.disaggregation.common.conn import PrefillServerInfo

        missing = USED_PREFILL_INFO - set(PrefillServerInfo.__dataclass_fields__)
        found += [f"PrefillServerInfo.{name} is missing" for name in sorted(missing)]
    return found


def _has(value: Any, path: list[str]) -> bool:
    for name in path:
        if not hasattr(value, name):
            return False
        value = getattr(value, name)
    return True


def _parameters(function: str) -> tuple[str, ...]:
    module_name, _, path = function.partition(":")
    value: Any = importlib.import_module(module_name)
    for name in path.split("."):
        value = getattr(value, name)
    return tuple(inspect.signature(value).parameters)


def require_supported_sglang() -> None:
    """Checks that this SGLang has all that the adapter uses.

    Raises:
        UnsupportedError: it lacks something; the message lists what.
    """
    found = differences()
    if found:
        import sglang

        raise UnsupportedError(
            f"mooncake_connector does not support SGLang {sglang.__version__} (tested with "
            f"{', '.join(TESTED_VERSIONS)}): " + "; ".join(found) + ". Use a tested version, or "
            "another --disaggregation-transfer-backend."
        )


def require_supported_features(args: KVArgs) -> None:
    """Raises UnsupportedError that names everything in this set-up that was never tested."""
    from sglang.srt.runtime_context import get_disagg, get_memory, get_parallel

    parallel = get_parallel()
    checks = {
        "decode context parallelism (--dcp-size)": parallel.attn_dcp_size > 1,
        "context parallelism (--attention-context-parallel-size)": parallel.attn_cp_size > 1,
        "--enable-kv-cache-sharding": bool(parallel.enable_kv_cache_sharding),
        "--enable-hisparse": bool(get_memory().enable_hisparse),
        "--disaggregation-decode-allocation-policy prefill_complete": (
            get_disagg().disaggregation_decode_allocation_policy != "early"
        ),
        "draft models (--speculative-algorithm)": args.num_draft_entries > 0,
        "the compressed KV cache of DeepSeek-V4": args.mla_compression_ratios is not None,
    }
    reasons = [name for name, present in checks.items() if present]
    if reasons:
        raise UnsupportedError(
            "mooncake_connector does not support this set-up yet: "
            + "; ".join(reasons)
            + ". Change these options, or use another --disaggregation-transfer-backend."
        )

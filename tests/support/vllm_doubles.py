# SPDX-License-Identifier: Apache-2.0
"""Stand-ins for what the vLLM adapter talks to: vLLM's objects; an engine that only records."""

from __future__ import annotations

import enum
from types import SimpleNamespace
from typing import Any

from mooncake_connector.errors import MooncakeConnectorError
from mooncake_connector.transfers import Completion

PAGE = 16


class FullAttentionSpec:
    block_size = PAGE


class SlidingWindowSpec:
    block_size = PAGE
    sliding_window = 24


Status = enum.Enum("Status", "FINISHED_LENGTH_CAPPED FINISHED_STOPPED FINISHED_ABORTED")


def cache_of(*specs: object) -> Any:
    """A KV cache with one group for each spec; all are transferred."""
    groups = [SimpleNamespace(kv_cache_spec=spec) for spec in specs]
    return SimpleNamespace(
        kv_cache_groups=groups,
        transfer_groups=groups,
        transfer_group_ids=tuple(range(len(groups))),
    )


def vllm_config(role: str = "kv_both", **changes: Any) -> Any:
    """A supported set-up; `changes` names what is different, with __ between the levels."""
    config = SimpleNamespace(
        model_config=SimpleNamespace(
            is_multimodal_model=False, is_encoder_decoder=False, enable_sleep_mode=False
        ),
        parallel_config=SimpleNamespace(
            rank=0,
            world_size=1,
            data_parallel_index=0,
            decode_context_parallel_size=1,
            prefill_context_parallel_size=1,
        ),
        cache_config=SimpleNamespace(cache_dtype="auto"),
        speculative_config=None,
        aux_output_config=SimpleNamespace(enable_return_routed_experts=False),
        kv_transfer_config=SimpleNamespace(
            is_kv_producer=role != "kv_consumer",
            is_kv_consumer=role != "kv_producer",
            kv_connector_extra_config={"bootstrap_port": 0},
        ),
    )
    for path, value in changes.items():
        *holders, name = path.split("__")
        holder: Any = config
        for part in holders:
            holder = getattr(holder, part)
        setattr(holder, name, value)
    return config


def new_request(tokens: int, params: dict[str, Any] | None = None, name: str = "r") -> Any:
    prompt = list(range(tokens))
    return SimpleNamespace(
        request_id=name,
        prompt_token_ids=prompt,
        _all_token_ids=list(prompt),
        num_prompt_tokens=tokens,
        num_computed_tokens=0,
        max_tokens=5,
        status=Status.FINISHED_LENGTH_CAPPED,
        lora_request=None,
        cache_salt=None,
        mm_features=[],
        kv_transfer_params=params,
        get_skip_reading_prefix_cache=lambda: False,
    )


def step_output(
    new: dict[str, tuple[int, int, tuple[list[int], ...]]] | None = None,
    cached: dict[str, tuple[int, int, tuple[list[int], ...] | None]] | None = None,
    preempted: tuple[str, ...] = (),
) -> Any:
    """A scheduler's output; requests are (tokens computed, tokens scheduled, new pages)."""
    new, cached = new or {}, cached or {}
    return SimpleNamespace(
        scheduled_new_reqs=[
            SimpleNamespace(req_id=name, num_computed_tokens=computed, block_ids=pages)
            for name, (computed, _, pages) in new.items()
        ],
        scheduled_cached_reqs=SimpleNamespace(
            req_ids=list(cached),
            num_computed_tokens=[computed for computed, _, _ in cached.values()],
            new_block_ids=[pages for _, _, pages in cached.values()],
        ),
        num_scheduled_tokens={name: count for name, (_, count, _) in (new | cached).items()},
        preempted_req_ids=set(preempted),
    )


class RecordingTransfer:
    """Takes the calls that never block, and no other."""

    NEVER_BLOCK = frozenset({"append", "mark_ready", "rewind", "finish", "abort", "cancel"})

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.arguments, self.options = arguments, options
        self.calls: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Any:
        assert name in self.NEVER_BLOCK, f"{name} is not for a serving engine's step"

        def call(*arguments: Any, **options: Any) -> None:
            self.calls.append((name, *arguments, *options.values()))

        return call


class RecordingEngine:
    """Opens transfers that end when the test says so."""

    address, instance_id = "127.0.0.1:1", "0" * 32

    def __init__(self, options: Any) -> None:
        self.options = options
        self.sends: list[RecordingTransfer] = []
        self.recvs: list[RecordingTransfer] = []
        self.completions: list[Completion] = []

    def send(self, *arguments: Any, **options: Any) -> RecordingTransfer:
        self.sends.append(RecordingTransfer(*arguments, **options))
        return self.sends[-1]

    def recv(self, *arguments: Any, **options: Any) -> RecordingTransfer:
        self.recvs.append(RecordingTransfer(*arguments, **options))
        return self.recvs[-1]

    def poll(self) -> list[Completion]:
        done, self.completions = self.completions, []
        return done

    def end(self, transfer: Any, error: MooncakeConnectorError | None = None) -> None:
        self.completions.append(Completion(transfer, error, 4096, 3, "shm", 0.25))

# SPDX-License-Identifier: Apache-2.0
"""A scheduler process of SGLang reduced to what a transfer backend sees of it.

SGLang's own classes hold the KV cache and the metadata rows and describe them; its configuration
is published as its servers publish it. Only the scheduler is missing: the tests call what it calls.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sglang.srt.disaggregation.base.conn import KVArgs, KVPoll
from sglang.srt.disaggregation.utils import (
    DisaggregationMode,
    MetadataBuffers,
    get_pd_kv_layout,
    setup_state_kv_args,
)
from sglang.srt.distributed.utils import get_pp_indices
from sglang.srt.mem_cache.memory_pool import MHATokenToKVPool, MLATokenToKVPool
from sglang.srt.runtime_context import get_context, get_parallel

from mooncake_connector.sglang.manager import Manager
from mooncake_connector.sglang.receiver import Receiver
from mooncake_connector.sglang.sender import Sender

LAYERS = 3
HEADS = 4
HEAD_DIM = 8
LATENT = 24
POOL_TOKENS = 1024
ROWS = 16
PATIENCE = 60.0


@dataclass
class Setting:
    """What is told on the command line and by the launcher.

    Attributes:
        model: folder of the model.
        tp: ranks that share the heads.
        rank: this one's number.
        stages: pipeline stages.
        stage: this one's number.
    """

    model: str
    page_size: int = 1
    tp: int = 1
    rank: int = 0
    stages: int = 1
    stage: int = 0
    latent: bool = False
    heads: int = HEADS
    options: dict[str, Any] = field(default_factory=dict)
    parallel: dict[str, Any] = field(default_factory=dict)

    @property
    def layers(self) -> range:
        """The stage's."""
        return range(*get_pp_indices(LAYERS, self.stage, self.stages))


class StageGroup:
    """The communicator of a server's pipeline stages, as far as SGLang's managers use it."""

    said: Any = None

    def broadcast_object(self, told: Any, src: int) -> Any:
        """What the first stage said; it has to be made before the others."""
        if told is not None:
            type(self).said = told
        return type(self).said


@contextlib.contextmanager
def published(setting: Setting, mode: str, bootstrap_port: int = 0) -> Iterator[Any]:
    """SGLang's configuration while a manager is made and while its methods run."""
    ranks: dict[str, Any] = {
        "tp_size": setting.tp,
        "tp_rank": setting.rank,
        "moe_tp_size": setting.tp,
        "attn_tp_size": setting.tp,
        "attn_tp_rank": setting.rank,
        "attn_cp_size": 1,
        "attn_cp_rank": 0,
        "attn_dp_size": 1,
        "attn_dp_rank": 0,
        "attn_dcp_size": 1,
        "attn_dcp_rank": 0,
        "pp_size": setting.stages,
        "pp_rank": setting.stage,
        "pp_group": StageGroup(),
        "dp_rank": 0,
    }
    options: dict[str, Any] = {
        "model_path": setting.model,
        "device": "cpu",
        "page_size": setting.page_size,
        "disaggregation_mode": mode,
        "disaggregation_bootstrap_port": bootstrap_port,
        **setting.options,
    }
    with (
        get_context().override_server_args(**options) as server_args,
        get_parallel().override(**{**ranks, **setting.parallel}),
    ):
        yield server_args


class Worker:
    """One rank of a prefill or decode server."""

    def __init__(self, setting: Setting, mode: str, bootstrap_port: int = 0) -> None:
        self.setting = setting
        self.mode = mode
        self._bootstrap_port = bootstrap_port
        self.pool = make_pool(setting)
        self.rows = MetadataBuffers(
            ROWS, hidden_size=16, hidden_states_dtype=torch.float32, max_sampling_mask_tokens=0
        )
        self.args = self._describe()
        self.manager: Manager

    def start(self) -> Worker:
        """Makes the manager, after a test has changed what is described."""
        with self.published() as server_args:
            self.manager = Manager(
                self.args, DisaggregationMode(self.mode), server_args, self.setting.latent
            )
        if self.manager._registration is not None:
            self.manager._registration._thread.join(PATIENCE)
        return self

    def published(self) -> contextlib.AbstractContextManager[Any]:
        """SGLang's configuration in this rank's process."""
        return published(self.setting, self.mode, self._bootstrap_port)

    def _describe(self) -> KVArgs:
        args = KVArgs()
        args.engine_rank = self.setting.rank
        args.system_dp_rank = args.gpu_id = 0
        args.pp_rank, args.prefill_start_layer = self.setting.stage, self.setting.layers.start
        args.kv_cache_dtype_str = "auto"
        args.kv_layout = get_pd_kv_layout(self.pool)
        args.kv_data_ptrs, args.kv_data_lens, args.kv_item_lens = (
            self.pool.get_contiguous_buf_infos()
        )
        args.kv_layer_ids = []
        args.page_size = self.setting.page_size
        args.aux_data_ptrs, args.aux_data_lens, args.aux_item_lens = self.rows.get_buf_infos()
        args.ib_device = None
        setup_state_kv_args(args, self.pool)
        return args

    def sender(self, bootstrap_port: int, room: int) -> Sender:
        """As the prefill scheduler makes it at intake."""
        with self.published():
            return Sender(self.manager, f"127.0.0.1:{bootstrap_port}", room)

    def receiver(self, bootstrap_port: int, room: int) -> Receiver:
        """As the decode scheduler makes it at intake."""
        with self.published():
            receiver = Receiver(self.manager, f"127.0.0.1:{bootstrap_port}", room)
            receiver.init(0)
            return receiver

    def fill(self, seed: int) -> None:
        """Writes random bytes into the whole KV cache."""
        rng = np.random.default_rng(seed)
        for region in regions_of(self.pool):
            region[:] = rng.integers(0, 256, region.size, np.uint8)

    def tokens(self, pages: npt.NDArray[np.int32]) -> npt.NDArray[np.uint8]:
        """The KV of pages, shape (layer and kind, pages, bytes of a page)."""
        size = self.setting.page_size
        return np.stack(
            [
                region.reshape(-1, region.size // (self.pool.size + size) * size)[pages]
                for region in regions_of(self.pool)
            ]
        )

    def set_row(self, row: int, room: int, token: int) -> None:
        """Writes the metadata that P's scheduler writes before the last chunk."""
        self.rows.output_ids[row, 0] = token
        self.rows.bootstrap_room[row, 0] = room

    def close(self) -> None:
        """Ends the threads."""
        self.manager.teardown()


def make_pool(setting: Setting) -> Any:
    """SGLang's KV cache for one rank's share of the model."""
    common: dict[str, Any] = {
        "size": POOL_TOKENS,
        "page_size": setting.page_size,
        "dtype": torch.float16,
        "layer_num": len(setting.layers),
        "start_layer": setting.layers.start,
        "device": "cpu",
        "enable_memory_saver": False,
    }
    if setting.latent:
        return MLATokenToKVPool(kv_lora_rank=LATENT - 8, qk_rope_head_dim=8, **common)
    heads = max(1, setting.heads // setting.tp)
    return MHATokenToKVPool(head_num=heads, head_dim=HEAD_DIM, **common)


def regions_of(pool: Any) -> list[npt.NDArray[np.uint8]]:
    """The bytes of each region that the pool describes."""
    tensors = pool.kv_buffer if hasattr(pool, "kv_buffer") else [*pool.k_buffer, *pool.v_buffer]
    return [tensor.view(torch.uint8).reshape(-1).numpy() for tensor in tensors]


def settle(*polls: Any, until: int = KVPoll.Success) -> list[int]:
    """Polls like a scheduler until all have come to a status, or one has failed."""
    deadline = time.monotonic() + PATIENCE
    seen: list[list[int]] = [[] for _ in polls]
    while True:
        for states, poller in zip(seen, polls, strict=True):
            states.append(poller.poll())
        latest = [states[-1] for states in seen]
        if all(status >= until for status in latest) or KVPoll.Failed in latest:
            for states in seen:
                running = [status for status in states if status != KVPoll.Failed]
                assert running == sorted(running), f"went back: {states}"
            return latest
        assert time.monotonic() < deadline, f"still {latest} after {PATIENCE} s"
        time.sleep(0.001)

# SPDX-License-Identifier: Apache-2.0
"""Loaded by the servers of sglang_churn.py: tells how fragmented each request's pages are.

It counts in SGLang's scheduler, before any transfer backend is called, so that backends are
compared over the same count. It also lets SGLang's mooncake backend run without a GPU.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

PAGES_FILE = "CHURN_PAGES_FILE"
WITHOUT_GPU = "CHURN_MOONCAKE_WITHOUT_GPU"


def activate() -> None:
    """Called by SGLang in each process, as every plugin is."""
    if os.environ.get(PAGES_FILE):
        from sglang.srt.plugins.hook_registry import HookRegistry, HookType

        target = "sglang.srt.disaggregation.decode.DecodePreallocQueue._send_kv_metadata"
        HookRegistry.register(target, _count, HookType.BEFORE)
    if os.environ.get(WITHOUT_GPU):
        from sglang.srt.disaggregation.mooncake.conn import MooncakeKVSender

        # It would hand over indices in pinned memory, with a CUDA event.
        MooncakeKVSender.supports_host_tensor_indices = False


def _count(_queue: Any, _request: Any, kv_indices: Any, page_size: int, *_: Any, **__: Any) -> None:
    slots = np.asarray(kv_indices)
    pages = slots[::page_size] // page_size
    runs = 1 + int(np.count_nonzero(np.diff(pages) != 1)) if len(pages) else 0
    with open(os.environ[PAGES_FILE], "a", encoding="ascii") as file:
        file.write(f"{len(slots)} {runs}\n")

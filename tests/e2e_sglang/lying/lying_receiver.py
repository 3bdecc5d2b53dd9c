# SPDX-License-Identifier: Apache-2.0
"""Receivers that report every fetch as done and fetch no KV: the tests' negative control.

The first token has to come, because SGLang waits for it; the pages are asked for by nobody. They
lie as long as a file exists, so that one decode server serves all tests.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


def activate() -> None:
    """Called by SGLang in each process, as every plugin is."""
    from mooncake_connector.sglang.receiver import Receiver

    honest = Receiver.send_metadata
    lie = Path(os.environ["LYING_RECEIVER_FILE"])

    def send_metadata(self: Receiver, kv_indices: Any, *arguments: Any, **options: Any) -> None:
        wanted = kv_indices[:0] if lie.exists() else kv_indices
        honest(self, wanted, *arguments, **options)

    Receiver.send_metadata = send_metadata  # type: ignore[method-assign]

# SPDX-License-Identifier: Apache-2.0
"""A receiver that reports every fetch as done and fetches no KV: the tests' negative control.

The first token has to come, because SGLang waits for it; the pages are asked for by nobody.
"""

from __future__ import annotations

from typing import Any


def activate() -> None:
    """Called by SGLang in each process, as every plugin is."""
    from mooncake_connector.sglang.receiver import Receiver

    honest = Receiver.send_metadata

    def send_metadata(self: Receiver, kv_indices: Any, *arguments: Any, **options: Any) -> None:
        honest(self, kv_indices[:0], *arguments, **options)

    Receiver.send_metadata = send_metadata  # type: ignore[method-assign]

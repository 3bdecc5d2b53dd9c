# SPDX-License-Identifier: Apache-2.0
"""A connector that reports every fetch as done and fetches nothing: the tests' negative control."""

from __future__ import annotations

from typing import Any

from mooncake_connector.vllm import MooncakeConnector
from mooncake_connector.vllm.metadata import Release


class LyingConnector(MooncakeConnector):
    """Releases what it should fetch."""

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        step = self._get_connector_metadata()
        if self.worker is not None:
            self.worker._results.finished_recving.update(step.loads)
        step.releases += [
            Release(one.request, one.tag, one.addresses) for one in step.loads.values()
        ]
        step.loads.clear()
        super().start_load_kv(forward_context, **kwargs)

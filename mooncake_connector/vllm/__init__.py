# SPDX-License-Identifier: Apache-2.0
"""The vLLM adapter.

vLLM takes ``MooncakeConnector`` from here: because the plugin registered it under the name
``mooncake_connector``, or because ``kv_connector_module_path`` names this package. Nothing of vLLM
is imported before it does.
"""

from __future__ import annotations

from typing import Any

__all__ = ["MooncakeConnector"]


def __getattr__(name: str) -> Any:
    if name == "MooncakeConnector":
        import vllm

        from mooncake_connector.vllm.compat import require_supported_version

        # Before the module that needs what only these versions have.
        require_supported_version(vllm.__version__)
        from mooncake_connector.vllm.connector import MooncakeConnector

        return MooncakeConnector
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

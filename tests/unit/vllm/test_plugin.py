# SPDX-License-Identifier: Apache-2.0
"""How vLLM finds the connector."""

from __future__ import annotations

import pytest
import vllm
from vllm.config import KVTransferConfig
from vllm.distributed.kv_transfer.kv_connector.factory import KVConnectorFactory
from vllm.distributed.kv_transfer.kv_connector.v1.base import SupportsHMA

from mooncake_connector.errors import UnsupportedError
from mooncake_connector.vllm.plugin import register

BY_NAME = KVTransferConfig(kv_connector="mooncake_connector", kv_role="kv_both")
BY_MODULE = KVTransferConfig(
    kv_connector="MooncakeConnector",
    kv_connector_module_path="mooncake_connector.vllm",
    kv_role="kv_both",
)


@pytest.mark.parametrize("config", [BY_NAME, BY_MODULE], ids=["name", "module"])
def test_both_ways_lead_to_one_class(config: KVTransferConfig) -> None:
    register()
    register()
    connector = KVConnectorFactory.get_connector_class(config)
    assert connector.__name__ == "MooncakeConnector"
    assert issubclass(connector, SupportsHMA)
    assert KVConnectorFactory.supports_hma_config(config)


def test_an_old_vllm_is_refused_when_the_class_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And not when the plugin is registered, which happens in every vLLM server."""
    monkeypatch.setattr(vllm, "__version__", "0.11.0")
    register()
    with pytest.raises(UnsupportedError, match=r"vLLM 0\.11\.0 is not supported"):
        KVConnectorFactory.get_connector_class(BY_NAME)


def test_a_child_of_multi_connector() -> None:
    register()
    child = {"kv_connector": "mooncake_connector", "kv_role": "kv_both"}
    config = KVTransferConfig(
        kv_connector="MultiConnector",
        kv_role="kv_both",
        kv_connector_extra_config={"connectors": [child]},
    )
    assert KVConnectorFactory.supports_hma_config(config)

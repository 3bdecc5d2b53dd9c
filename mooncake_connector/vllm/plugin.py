# SPDX-License-Identifier: Apache-2.0
"""What vLLM calls at start in each of its processes, through ``vllm.general_plugins``."""

from __future__ import annotations

import logging

CONNECTOR_NAME = "mooncake_connector"

logger = logging.getLogger(__name__)


def register() -> None:
    """Makes ``--kv-transfer-config '{"kv_connector":"mooncake_connector", ...}'`` known to vLLM.

    May be called any number of times. It must never raise: vLLM calls it in every server of the
    environment, also in those that do not use this connector. So an unsupported version is
    reported when the connector's class is loaded, which only its users do.
    """
    try:
        from vllm.distributed.kv_transfer.kv_connector.factory import KVConnectorFactory
    except ImportError as error:
        logger.warning(
            "%s is not available: this vLLM has no V1 KV connectors (%s)", CONNECTOR_NAME, error
        )
        return
    if CONNECTOR_NAME not in KVConnectorFactory._registry:
        KVConnectorFactory.register_connector(
            CONNECTOR_NAME, "mooncake_connector.vllm", "MooncakeConnector"
        )

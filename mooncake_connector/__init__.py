# SPDX-License-Identifier: Apache-2.0
"""Moves paged KV cache between LLM servers.

`Engine` is the engine itself; ``mooncake_connector.vllm`` plugs it into vLLM.
"""

from mooncake_connector.config import ConnectorConfig, EngineConfig
from mooncake_connector.engine import Engine, RegisteredMemory
from mooncake_connector.errors import (
    AuthenticationFailed,
    ConfigError,
    LayoutMismatch,
    MooncakeConnectorError,
    PeerLost,
    PeerRestarted,
    PeerUnreachable,
    ProtocolError,
    ResourceExhausted,
    TransferAborted,
    TransferTimeout,
    UnsupportedError,
)
from mooncake_connector.pools import Plane, Pool, PoolSpec, planes_from_array
from mooncake_connector.transfers import Completion, Recv, Send, Transfer

__all__ = [
    "AuthenticationFailed",
    "Completion",
    "ConfigError",
    "ConnectorConfig",
    "Engine",
    "EngineConfig",
    "LayoutMismatch",
    "MooncakeConnectorError",
    "PeerLost",
    "PeerRestarted",
    "PeerUnreachable",
    "Plane",
    "Pool",
    "PoolSpec",
    "ProtocolError",
    "Recv",
    "RegisteredMemory",
    "ResourceExhausted",
    "Send",
    "Transfer",
    "TransferAborted",
    "TransferTimeout",
    "UnsupportedError",
    "planes_from_array",
]

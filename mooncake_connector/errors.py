# SPDX-License-Identifier: Apache-2.0
"""The exceptions of this package: one tree, so that one ``except`` clause catches all of it.

The engine's status codes map to these classes one to one. Every message names the cause, what
was checked, and what to do about it.
"""

from __future__ import annotations


class MooncakeConnectorError(Exception):
    """Base class of every error that this package raises or reports."""


class ConfigError(MooncakeConnectorError, ValueError):
    """An option is unknown, malformed, or contradicts another one."""


class LayoutMismatch(MooncakeConnectorError):
    """The pools of the two sides cannot be copied into each other.

    They differ in data type, element bytes, layers, or in the fingerprint of model and KV format.
    """


class PeerUnreachable(MooncakeConnectorError):
    """No connection to the peer could be made: wrong address, nobody listening, or no route."""


class AuthenticationFailed(MooncakeConnectorError):
    """The peer did not prove that it holds the pre-shared key."""


class TransferTimeout(MooncakeConnectorError, TimeoutError):
    """A transfer passed its deadline, or its tag stayed unknown at the sender for too long."""


class TransferAborted(MooncakeConnectorError):
    """A transfer was cancelled by one of its two sides; the reason is in the message."""


class PeerLost(MooncakeConnectorError):
    """The peer went silent or closed its connection while a transfer was running."""


class PeerRestarted(PeerLost):
    """The peer answers again, but as another process: what it held for us is gone."""


class ProtocolError(MooncakeConnectorError):
    """The peer sent something that the protocol does not allow; its session was closed."""


class ResourceExhausted(MooncakeConnectorError):
    """A bound was reached: memory, descriptors, lockable memory, or parked requests."""


class UnsupportedError(MooncakeConnectorError):
    """This build, kernel, serving-engine version or feature combination is not supported."""


_BY_CODE: dict[str, type[MooncakeConnectorError]] = {
    "invalid argument": ConfigError,
    "layout mismatch": LayoutMismatch,
    "unreachable": PeerUnreachable,
    "authentication failed": AuthenticationFailed,
    "timeout": TransferTimeout,
    "aborted": TransferAborted,
    "peer restarted": PeerRestarted,
    "peer lost": PeerLost,
    "protocol error": ProtocolError,
    "resource exhausted": ResourceExhausted,
    "unsupported": UnsupportedError,
}


def exception_for(code: str) -> type[MooncakeConnectorError]:
    """The class for a status code of the engine, by the code's name."""
    return _BY_CODE.get(code, MooncakeConnectorError)


__all__ = [
    "AuthenticationFailed",
    "ConfigError",
    "LayoutMismatch",
    "MooncakeConnectorError",
    "PeerLost",
    "PeerRestarted",
    "PeerUnreachable",
    "ProtocolError",
    "ResourceExhausted",
    "TransferAborted",
    "TransferTimeout",
    "UnsupportedError",
    "exception_for",
]

# SPDX-License-Identifier: Apache-2.0
"""Every option of the engine and of the serving-engine adapters, typed and checked in one place.

Options come from three places, the earlier one winning: arguments or the serving engine's extra
configuration, ``MOONCAKE_CONNECTOR_*`` environment variables, and the defaults below. An unknown
option is an error that names the valid ones: a silently ignored option is worse than none.
"""

from __future__ import annotations

import dataclasses
import difflib
import ipaddress
import os
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from mooncake_connector.errors import ConfigError

ENVIRONMENT_PREFIX = "MOONCAKE_CONNECTOR_"
KEY_VARIABLE = ENVIRONMENT_PREFIX + "KEY"
PATHS = ("local", "shm", "cma", "tcp")

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})
_HIGHEST_PORT = 65535
_LONGEST_BUSY_POLL = 0.01
_BOUNDS = {
    "port": (0, _HIGHEST_PORT),
    "io_threads": (1, 256),
    "copy_threads": (1, 256),
    "tcp_lanes": (1, 64),  # kMaxLanes in csrc/engine/driver.cpp: a peer accepts no more
    "ring_bytes": (64 << 10, 64 << 20),  # RingMemory::kSmallest and kLargest
    "eager_bytes": (0, 1 << 30),
    "cma_min_span": (0, 1 << 40),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """What one engine needs to know. Times are in seconds, sizes in bytes.

    Raises:
        ConfigError: an option has a wrong type or value, or contradicts another one.
    """

    host: str = "127.0.0.1"
    """Address or name to listen on. Control connections and TCP lanes share one port."""
    port: int = 0
    """Port to listen on; 0 lets the kernel choose."""
    advertise: str | None = None
    """Host that peers are told to connect to, where it differs from ``host``."""
    paths: tuple[str, ...] | None = None
    """Restricts the paths (``local``, ``shm``, ``cma``, ``tcp``) that may be used; None: all."""
    strict: bool = False
    """Refuse to fall back to a slower path when the best allowed one cannot be used."""
    cma: Literal["auto", "any"] = "auto"
    """``any`` lets every process of this user read this one, where Yama forbids it otherwise."""
    ipc_dir: str | None = None
    """Folder for Unix sockets, where containers share it and no network; made with mode 0700."""
    key_file: str | None = None
    """File (mode 0600) with the pre-shared key, or two while keys change, one to a line."""
    io_threads: int = 2
    """Threads that serve TCP lanes."""
    copy_threads: int = 2
    """Threads that copy between processes of one host and pack small spans."""
    tcp_lanes: int = 4
    """TCP connections per peer that carry KV, besides the control connection."""
    verify: bool = False
    """Compare a digest of every transfer before it completes."""
    unknown_timeout: float = 30.0
    """How long a receive may wait for a tag that its sender does not know."""
    peer_timeout: float = 1.8
    """Silence after which a peer with unfinished work is declared lost."""
    ping_interval: float = 0.5
    """How often a peer with unfinished work is pinged."""
    cma_min_span: int = 32768
    """Spans shorter than this on average go through the shared-memory ring, not through cma."""
    eager_bytes: int = 65536
    """Up to this size a copy is made on the control thread, without waking a copy thread."""
    ring_bytes: int = 4 << 20
    """Size of the shared-memory ring to each peer of this host (64 KiB to 64 MiB)."""
    busy_poll: float = 50e-6
    """How long the control thread and ``wait`` look for more work before they sleep (0 to 0.01)."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Lines below this level are not written. ``debug`` adds one for each request."""

    def __post_init__(self) -> None:
        for name, hint in _hints(type(self)).items():
            _check_type(name, getattr(self, name), hint)
        for name, (least, most) in _BOUNDS.items():
            _check_between(name, getattr(self, name), least, most)
        for name in ("unknown_timeout", "peer_timeout", "ping_interval"):
            _check_positive(name, getattr(self, name))
        for name in ("host", "advertise"):
            _check_host(name, getattr(self, name))
        if not 0 <= self.busy_poll <= _LONGEST_BUSY_POLL:
            raise ConfigError(f"busy_poll={self.busy_poll} is not between 0 and 0.01 seconds")
        # It is compared with, not bound to.
        if self.advertise is None and self.host in ("0.0.0.0", "::"):  # nosec B104
            raise ConfigError(
                f"host={self.host!r} listens on all interfaces, but peers cannot connect to it; "
                "say which of this host's addresses they should use: advertise="
            )
        if self.ping_interval >= self.peer_timeout:
            raise ConfigError(
                f"ping_interval={self.ping_interval} must be shorter than "
                f"peer_timeout={self.peer_timeout}: a peer would be lost between two pings"
            )
        if self.paths is not None:
            unknown = [path for path in self.paths if path not in PATHS]
            if unknown or not self.paths:
                raise ConfigError(f"paths={list(self.paths)}: choose from {', '.join(PATHS)}")

    @classmethod
    def from_extra_config(
        cls, options: Mapping[str, Any], environment: Mapping[str, str] | None = None
    ) -> Self:
        """Reads a serving engine's free-form options on top of the environment's.

        Args:
            options: values as JSON gives them; text is converted as in the environment.
            environment: what to read instead of ``os.environ``.

        Raises:
            ConfigError: an option is unknown or malformed.
        """
        values = _environment_values(cls, os.environ if environment is None else environment)
        hints = _hints(cls)
        for name, value in options.items():
            if name == "key":
                raise ConfigError(
                    "a key cannot be an option: command lines can be read by others; put it into a "
                    f"file (key_file) or into the environment variable {KEY_VARIABLE}"
                )
            if name not in hints:
                raise ConfigError(_unknown(name, "option", hints))
            values[name] = _convert(name, value, hints[name])
        return cls(**values)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Self:
        """Reads ``MOONCAKE_CONNECTOR_<OPTION>`` variables, and defaults for the others."""
        return cls.from_extra_config({}, environment)

    def engine_options(self) -> EngineConfig:
        """The engine's share of these options, without what only the adapters use."""
        names = [field.name for field in dataclasses.fields(EngineConfig)]
        return EngineConfig(**{name: getattr(self, name) for name in names})


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectorConfig(EngineConfig):
    """What the serving-engine adapters need besides the engine's options."""

    bootstrap_host: str | None = None
    """Where P serves ``/query``; None means ``host``."""
    bootstrap_port: int = 8998
    """Port of P's bootstrap server; 0 lets the kernel choose (single-process tests)."""
    bootstrap_advertise: str | None = None
    """Host that P names in its answers; None means ``advertise``, else ``bootstrap_host``."""
    bootstrap_timeout: float = 5.0
    """How long D waits for P's bootstrap server to answer."""
    allowed_peers: tuple[str, ...] = ()
    """Host names, addresses and CIDR ranges that D may be sent to by a client's request.

    Loopback and this server's own host are always allowed.
    """
    model_id: str | None = None
    """What the model is called, where its folder has different names at P and D."""
    max_wait: float = 600.0
    """How long D waits for a request's KV from a P that lives and knows the request."""
    hold_timeout: float = 120.0
    """How long P keeps a finished prefill's pages for a D that does not come."""

    def __post_init__(self) -> None:
        EngineConfig.__post_init__(self)
        _check_between("bootstrap_port", self.bootstrap_port, 0, _HIGHEST_PORT)
        for name in ("bootstrap_timeout", "max_wait", "hold_timeout"):
            _check_positive(name, getattr(self, name))
        for peer in self.allowed_peers:
            if "/" in peer:
                _parse_network(peer)

    def allows(self, host: str) -> bool:
        """Whether a host that arrived in a client's request may be connected to.

        Names are compared as text and never resolved here: a resolver's answer could change
        between this check and the connection.
        """
        host = host.strip("[]").lower()
        own = (self.host, self.advertise, self.bootstrap_host, self.bootstrap_advertise)
        entries = [entry for entry in own if entry is not None] + list(self.allowed_peers)
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return host == "localhost" or any(host == entry.lower() for entry in entries)
        if address.is_loopback:
            return True
        return any(_matches(address, entry) for entry in entries)


def _matches(address: ipaddress.IPv4Address | ipaddress.IPv6Address, entry: str) -> bool:
    if "/" in entry:
        return address in _parse_network(entry)
    try:
        configured = ipaddress.ip_address(entry.strip("[]"))
    except ValueError:
        return False
    return not configured.is_unspecified and address == configured


def _parse_network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise ConfigError(f"allowed_peers: {text!r} is not a CIDR range: {error}") from None


def _hints(cls: type) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _environment_values(cls: type, environment: Mapping[str, str]) -> dict[str, Any]:
    """Values of all our variables. Both classes' names are valid for both: one environment."""
    values: dict[str, Any] = {}
    known = _hints(ConnectorConfig)
    wanted = _hints(cls)
    for variable, text in environment.items():
        if not variable.startswith(ENVIRONMENT_PREFIX):
            continue
        name = variable.removeprefix(ENVIRONMENT_PREFIX).lower()
        if variable == KEY_VARIABLE:
            continue  # never an option: options can be seen in the process list
        if name not in known:
            raise ConfigError(_unknown(variable, "environment variable", known, upper=True))
        if name in wanted:
            values[name] = _convert(variable, text, wanted[name])
    return values


def _unknown(name: str, what: str, known: Mapping[str, Any], upper: bool = False) -> str:
    valid = [f"{ENVIRONMENT_PREFIX}{key.upper()}" if upper else key for key in sorted(known)]
    close = difflib.get_close_matches(name, valid, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    return f"unknown {what} {name!r}{hint}; the valid ones are: {', '.join(valid)}"


def _alternatives(hint: Any) -> tuple[Any, ...]:
    """``X | None`` as (X, NoneType), anything else as itself."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return typing.get_args(hint)
    return (hint,)


def _convert(name: str, value: Any, hint: Any) -> Any:
    """Turns text and JSON values into an option's type; leaves wrong types for ``_check_type``."""
    kinds = _alternatives(hint)
    if tuple[str, ...] in kinds:
        if isinstance(value, str):
            value = [part.strip() for part in value.split(",") if part.strip()]
        return tuple(value) if isinstance(value, list) else value
    if isinstance(value, str):
        for kind, parse in _PARSERS.items():
            if kind in kinds:
                try:
                    return parse(value)
                except ValueError:
                    raise ConfigError(f"{name}={value!r} is not {_describe(hint)}") from None
    return value


def _parse_bool(text: str) -> bool:
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise ValueError(text)


_PARSERS: dict[Any, Callable[[str], Any]] = {bool: _parse_bool, int: int, float: float}


def _check_type(name: str, value: Any, hint: Any) -> None:
    if not any(_is_a(value, kind) for kind in _alternatives(hint)):
        raise ConfigError(f"{name}={value!r} is not {_describe(hint)}")


def _is_a(value: Any, kind: Any) -> bool:
    if typing.get_origin(kind) is Literal:
        return value in typing.get_args(kind)
    if kind == tuple[str, ...]:
        return isinstance(value, tuple) and all(isinstance(item, str) for item in value)
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind)


def _describe(hint: Any) -> str:
    names = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
    parts = []
    for kind in _alternatives(hint):
        if kind is types.NoneType:
            continue
        if typing.get_origin(kind) is Literal:
            parts.append("one of " + ", ".join(typing.get_args(kind)))
        else:
            parts.append(names.get(kind, "a tuple of texts (in JSON a list)"))
    return " or ".join(parts)


def _check_host(name: str, value: str | None) -> None:
    if value is None:
        return
    if not value or "[" in value or any(character.isspace() for character in value):
        raise ConfigError(
            f"{name}={value!r} is no name or address of a host; IPv6 addresses stand without "
            "brackets here"
        )


def _check_between(name: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise ConfigError(f"{name}={value} must be {least} to {most}")


def _check_positive(name: str, value: float) -> None:
    if not value > 0:
        raise ConfigError(f"{name}={value} must be greater than 0 seconds")

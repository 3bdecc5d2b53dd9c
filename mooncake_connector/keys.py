# SPDX-License-Identifier: Apache-2.0
"""Pre-shared keys: where they come from, and what is derived from them.

Engines that authenticate each other have a key in common. An engine may have two while keys are
being changed: it offers the first and accepts either.
"""

from __future__ import annotations

import hmac
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mooncake_connector.config import KEY_VARIABLE
from mooncake_connector.errors import ConfigError

MOST_KEYS = 2
SHORTEST_KEY = 32
"""Characters. ``openssl rand -hex 32`` makes 64."""
_MAKE_ONE = "make one with 'openssl rand -hex 32'"


@dataclass(frozen=True, slots=True)
class Key:
    """A secret that some engines share.

    Attributes:
        secret: the bytes of its text.
    """

    secret: bytes = field(repr=False)

    @property
    def id(self) -> bytes:
        """16 bytes that name the key and tell nothing of it."""
        return self.derive("id")[:16]

    def derive(self, purpose: str) -> bytes:
        """A secret of 32 bytes for another purpose: HMAC-SHA256 of the purpose's name."""
        return hmac.digest(self.secret, f"mooncake_connector {purpose}".encode(), "sha256")


def load_keys(key_file: str | None, environment: Mapping[str, str] | None = None) -> list[Key]:
    """Reads the keys; none if neither the file nor the environment variable is given.

    Args:
        key_file: path of a file with one key a line, which nobody but its owner may read.
        environment: what to read instead of ``os.environ``.

    Raises:
        ConfigError: both are given, the file cannot be read or is open to others, or a key is too
            short.
    """
    text = (os.environ if environment is None else environment).get(KEY_VARIABLE, "")
    if key_file is None:
        return _parse(text, KEY_VARIABLE) if text else []
    if text:
        raise ConfigError(
            f"key_file={key_file!r} and {KEY_VARIABLE} are both set; keep one of them"
        )
    return _parse(_read(key_file), f"key_file={key_file!r}")


def _read(key_file: str) -> str:
    try:
        with Path(key_file).expanduser().open(encoding="utf-8") as file:
            status = os.fstat(file.fileno())
            if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
                mode = stat.S_IMODE(status.st_mode)
                raise ConfigError(
                    f"key_file={key_file!r} is open to others (mode {mode:04o}); "
                    f"run 'chmod 600 {key_file}'"
                )
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"key_file={key_file!r} cannot be read: {error}") from None


def _parse(text: str, source: str) -> list[Key]:
    keys = [Key(word.encode()) for word in text.split()]
    if not keys:
        raise ConfigError(f"{source} holds no key; {_MAKE_ONE}")
    if len(keys) > MOST_KEYS:
        raise ConfigError(f"{source} holds {len(keys)} keys; at most two are valid at a time")
    if any(len(key.secret) < SHORTEST_KEY for key in keys):
        raise ConfigError(
            f"{source}: a key of fewer than {SHORTEST_KEY} characters can be guessed; {_MAKE_ONE}"
        )
    return keys

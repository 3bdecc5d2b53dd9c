# SPDX-License-Identifier: Apache-2.0
"""Reads the lines that the connector logs for each request when ``log_level`` is ``debug``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

# The line ends in key=value words; what comes before is the logger's own.
RECEIVED = re.compile(r"received request=(?P<request>\S+) (?P<figures>(?:\w+=\S+ ?)+)")


@dataclass(frozen=True)
class Transfer:
    """What one request's KV cost."""

    request: str
    tokens: int
    bytes: int
    spans: int
    path: str
    seconds: float


class TransferLog:
    """The transfers in a decode server's growing log."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def forget(self) -> None:
        """Passes over what has been logged so far."""
        self._offset = self._path.stat().st_size

    def latest(self) -> Transfer | None:
        """The last transfer that was logged since forget()."""
        with self._path.open("rb") as file:
            file.seek(self._offset)
            text = file.read().decode(errors="replace")
        lines = list(RECEIVED.finditer(text))
        if not lines:
            return None
        found = lines[-1]
        figures = dict(word.split("=", 1) for word in found["figures"].split())
        return Transfer(
            request=found["request"],
            tokens=int(figures["tokens"]),
            bytes=int(figures["bytes"]),
            spans=int(figures["spans"]),
            path=figures["path"],
            seconds=float(figures["seconds"]),
        )

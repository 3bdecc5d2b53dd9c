# SPDX-License-Identifier: Apache-2.0
"""Reads the lines that the connector logs for each request when ``log_level`` is ``debug``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

FETCHED = re.compile(
    r"(?P<request>\S+): fetched (?P<tokens>\d+) tokens, (?P<bytes>\d+) bytes "
    r"in (?P<spans>\d+) spans over (?P<path>\S+), (?P<milliseconds>[\d.]+) ms"
)


@dataclass(frozen=True)
class Transfer:
    """What one request's KV cost."""

    request: str
    tokens: int
    bytes: int
    spans: int
    path: str
    milliseconds: float


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
        lines = list(FETCHED.finditer(text))
        if not lines:
            return None
        line = lines[-1]
        return Transfer(
            request=line["request"],
            tokens=int(line["tokens"]),
            bytes=int(line["bytes"]),
            spans=int(line["spans"]),
            path=line["path"],
            milliseconds=float(line["milliseconds"]),
        )

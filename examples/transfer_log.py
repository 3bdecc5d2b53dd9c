# SPDX-License-Identifier: Apache-2.0
"""Reads the lines that the connector logs for each request when ``log_level`` is ``debug``."""

from __future__ import annotations

import re
from collections.abc import Iterable
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
    """The transfers in decode servers' growing logs."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._offsets = dict.fromkeys(paths, 0)

    def forget(self) -> None:
        """Passes over what has been logged so far."""
        self._offsets = {path: path.stat().st_size for path in self._offsets}

    def latest(self) -> Transfer | None:
        """The last transfer that was logged since forget()."""
        lines = []
        for path, offset in self._offsets.items():
            with path.open("rb") as file:
                file.seek(offset)
                lines += FETCHED.finditer(file.read().decode(errors="replace"))
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

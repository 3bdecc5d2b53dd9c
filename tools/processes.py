# SPDX-License-Identifier: Apache-2.0
"""Runs a command so that its output is seen, kept and searched, and nothing outlives it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

GRACE_SECONDS = 10.0
_running: set[subprocess.Popen[str]] = set()


@dataclass(frozen=True)
class Ending:
    """How a command ended, and all it printed."""

    ok: bool
    reason: str
    output: str


def end_group(process: subprocess.Popen[str]) -> None:
    """Ends a process that leads its own session, with everything it started there."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_SECONDS)


def end_all() -> None:
    """Ends what other threads run."""
    for process in list(_running):
        end_group(process)


def run_logged(
    command: Sequence[str], log: TextIO, deadline: float, cwd: Path, *, echo: bool = True
) -> Ending:
    """Runs a command to its end, or ends it.

    Args:
        command: Program and arguments.
        log: Gets a copy of what it prints.
        deadline: When to end it, as time.monotonic() counts.
        cwd: Where it runs.
        echo: Whether what it prints is shown.
    """
    print("$", *command, file=log, flush=True)
    lines: list[str] = []

    def pump(stream: TextIO) -> None:
        for line in stream:
            lines.append(line)
            log.write(line)
            log.flush()
            if echo:
                sys.stdout.write(line)
                sys.stdout.flush()

    process = subprocess.Popen(
        command,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    _running.add(process)
    assert process.stdout is not None
    reader = threading.Thread(target=pump, args=(process.stdout,), daemon=True)
    reader.start()
    try:
        code = process.wait(max(0.0, deadline - time.monotonic()))
        reason = f"exited with {code}"
    except subprocess.TimeoutExpired:
        code = None
        reason = "took too long and was ended"
    finally:
        end_group(process)
        _running.discard(process)
        reader.join(GRACE_SECONDS)
    return Ending(code == 0, reason, "".join(lines))

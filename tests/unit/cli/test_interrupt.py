# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C ends a benchmark at any moment: quietly, with the shells' status, and all of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

PROGRAM = """
import signal, sys
from mooncake_connector.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs begin without it
print("go", flush=True)
sys.exit(main(["bench", "--parts", "copies,latency", "--region", "64M", "--sizes", "1K,64K"]))
"""
PATIENCE = 60.0


# While it loads modules, while the two processes start, while they work.
@pytest.mark.parametrize("seconds", [0.05, 0.3, 0.6, 1.5, 3.0])
def test_ctrl_c(seconds: float) -> None:
    with subprocess.Popen(
        [sys.executable, "-P", "-c", PROGRAM],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "go\n"
        time.sleep(seconds)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to everybody
        _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert "Traceback" not in errors, errors
    deadline = time.monotonic() + PATIENCE
    while group_lives(process.pid):
        assert time.monotonic() < deadline, "processes are left"
        time.sleep(0.05)


def group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True

# SPDX-License-Identifier: Apache-2.0
"""The example that needs no serving engine runs. (Those that need one: tests/e2e.)"""

import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def test_the_bare_engine_moves_pages_between_two_processes() -> None:
    done = subprocess.run(
        [sys.executable, "-P", str(EXAMPLES / "bare_engine.py")],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    figures, verdict = done.stdout.splitlines()
    assert figures.startswith("1024 tokens, 1048576 bytes in ")
    assert verdict == "equal"

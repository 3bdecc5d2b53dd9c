# SPDX-License-Identifier: Apache-2.0
"""The examples that need no serving engine run. (Those that need one: tests/e2e.)"""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"


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


def test_the_readmes_engine_moves_pages() -> None:
    (program,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(program, names)
    filled, empty = names["filled"], names["empty"]
    assert names["done"].ok
    assert (empty[:, [9, 2]] == filled[:, [3, 1]]).all()
    assert (empty[:, 6, :, :8] == filled[:, 4, :, :8]).all()
    assert not empty[:, 6, :, 8:].any()
    for engine in (names["sender"], names["receiver"]):
        engine.close()

# SPDX-License-Identifier: Apache-2.0
"""Figures get from a test's report into the document, and not from a bad run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

TOOL = Path(__file__).parents[3] / "tools" / "reliability.py"
DOCUMENT = """before
<!-- figures: written by tools/reliability.py -->
old
<!-- end of figures -->
after
"""
CASE = """<testsuites><testsuite timestamp="2031-05-04T03:02:01">
<testcase name="test_it"><properties>
<property name="figure: nothing is lost" value="0 of 7"/><property name="other" value="x"/>
</properties>{ending}</testcase></testsuite></testsuites>"""


def run(folder: Path, report: str) -> tuple[int, str, str]:
    (folder / "document.md").write_text(DOCUMENT)
    (folder / "stage.xml").write_text(report)
    done = subprocess.run(
        [sys.executable, TOOL, folder / "document.md", folder / "stage.xml"],
        capture_output=True,
        text=True,
        check=False,
        env={name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"},
    )
    return done.returncode, (folder / "document.md").read_text(), done.stderr


def test_figures_are_written_between_the_markers(tmp_path: Path) -> None:
    status, document, _ = run(tmp_path, CASE.format(ending=""))
    assert status == 0
    assert "| `test_it` | nothing is lost | 0 of 7 |" in document
    assert "**stage**, 2031-05-04" in document
    assert "old" not in document
    assert document.startswith("before\n")
    assert document.endswith("after\n")


def test_a_run_with_a_failure_is_not_quoted(tmp_path: Path) -> None:
    status, document, problem = run(tmp_path, CASE.format(ending='<failure message="no"/>'))
    assert status != 0
    assert "test_it" in problem
    assert document == DOCUMENT


def test_a_report_without_figures_is_an_error(tmp_path: Path) -> None:
    status, document, _ = run(tmp_path, "<testsuites><testsuite/></testsuites>")
    assert status != 0
    assert document == DOCUMENT

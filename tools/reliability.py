# SPDX-License-Identifier: Apache-2.0
"""Writes what the fault tests measured into docs/reliability.md.

    make test STAGES='integration vllm'
    tools/reliability.py docs/reliability.md build/reports/integration.xml build/reports/vllm.xml

The tests note their figures in the JUnit reports; the table between the document's two markers is
made of them. A report with a failed test is refused: its figures would prove nothing.
"""

from __future__ import annotations

import argparse
import datetime
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from junit import read_report

BEGIN = "<!-- figures: written by tools/reliability.py -->"
END = "<!-- end of figures -->"
MARK = "figure: "  # as tests/support/figures.py has it


def figures(report: Path) -> Iterator[tuple[str, str, str]]:
    """Test, what is promised, what was measured."""
    # Reports that the tests wrote on this machine.
    for case in ElementTree.parse(report).iter("testcase"):  # nosec B314
        for noted in case.iter("property"):
            name = noted.get("name", "")
            if name.startswith(MARK):
                yield case.get("name", ""), name.removeprefix(MARK), noted.get("value", "")


def date_of(report: Path) -> str:
    """When the tests ran."""
    suite = ElementTree.parse(report).find(".//testsuite")  # nosec B314
    text = "" if suite is None else suite.get("timestamp", "")
    return datetime.datetime.fromisoformat(text).date().isoformat()


def table(reports: list[Path]) -> str:
    """The Markdown between the markers."""
    lines = []
    for report in reports:
        if failures := read_report(report).failures:
            raise SystemExit(f"{report} has failures, so its figures are not quoted: {failures[0]}")
        noted = list(figures(report))
        if not noted:
            raise SystemExit(f"{report} holds no figures")
        lines += ["", f"**{report.stem}**, {date_of(report)}", ""]
        lines += ["| test | what is promised | measured |", "|---|---|---|"]
        before = None
        for test, promise, measured in noted:
            shown = "" if test == before else f"`{test}`"
            lines.append(f"| {shown} | {promise} | {measured} |")
            before = test
    return "\n".join([*lines, ""])


def rewritten(document: str, text: str) -> str:
    """The document with this text between its markers."""
    if BEGIN not in document or END not in document:
        raise SystemExit(f"the document lacks the markers {BEGIN} and {END}")
    before, rest = document.split(BEGIN, 1)
    return f"{before}{BEGIN}\n{text}\n{END}{rest.split(END, 1)[1]}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("document", type=Path)
    parser.add_argument("reports", type=Path, nargs="+")
    arguments = parser.parse_args()
    text = table(arguments.reports)
    arguments.document.write_text(rewritten(arguments.document.read_text(), text))
    return 0


if __name__ == "__main__":
    sys.exit(main())

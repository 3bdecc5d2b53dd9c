# SPDX-License-Identifier: Apache-2.0
"""Reads the JUnit reports that pytest, ctest and tools/lint.py write."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

# GoogleTest prints why it skips below "file:line: Skipped"; ctest itself reports only a match.
GTEST_SKIP_REASON = re.compile(r": Skipped\n(.*)")
GTEST_FAILURE = re.compile(r"^\S+:\d+: Failure\n.*", re.MULTILINE)


@dataclass
class Report:
    """What a test run said of its tests.

    Attributes:
        passed: How many passed.
        failures: The name and first line of each that did not.
        skipped: The name and reason of each that was skipped.
    """

    passed: int = 0
    failures: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    @property
    def empty(self) -> bool:
        """True when no test was run, whatever became of it."""
        return not (self.passed or self.failures or self.skipped)


def _first_line(text: str | None, otherwise: str) -> str:
    return next((line.strip() for line in (text or "").splitlines() if line.strip()), otherwise)


def _name(case: ElementTree.Element) -> str:
    # ctest gives the whole name twice.
    return ".".join(dict.fromkeys(filter(None, (case.get("classname"), case.get("name")))))


def _failure_reason(case: ElementTree.Element, failure: ElementTree.Element) -> str:
    printed = GTEST_FAILURE.search(case.findtext("system-out") or "")
    if printed:
        return " ".join(printed[0].split())
    return _first_line(failure.get("message") or failure.text, "failed")


def _skip_reason(case: ElementTree.Element, skip: ElementTree.Element) -> str:
    printed = GTEST_SKIP_REASON.search(case.findtext("system-out") or "")
    if printed and printed[1].strip():
        return printed[1].strip()
    return _first_line(skip.get("message"), "no reason given")


def read_report(path: Path) -> Report:
    """Reads a JUnit file; one that its writer did not finish counts as empty."""
    report = Report()
    try:
        # Written by this repository's own test runs.
        cases = ElementTree.parse(path).iter("testcase")  # nosec B314
    except ElementTree.ParseError:
        return report
    for case in cases:
        failure = next((node for node in case if node.tag in {"failure", "error"}), None)
        skip = case.find("skipped")
        if failure is not None:
            report.failures.append(f"{_name(case)}: {_failure_reason(case, failure)}")
        elif skip is not None:
            report.skipped.append(f"{_name(case)}: {_skip_reason(case, skip)}")
        else:
            report.passed += 1
    return report

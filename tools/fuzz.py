# SPDX-License-Identifier: Apache-2.0
"""Runs the fuzz targets one after another and says what they did.

    tools/fuzz.py [--seconds N] [--runs N] [--junit-xml FILE] [TARGET ...]

Each begins with its seeds in tests/fuzz/corpus/ and keeps what it finds in build/fuzz/found/, where
it goes on the next time. An input that makes one fail lies in build/fuzz/failures/ and is replayed
by giving it to the target as its argument.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "fuzz"
TARGETS = ("codec", "handshake", "session")
# Longer inputs are slower and reach nothing that these do not.
LONGEST = {"codec": 4096, "handshake": 256, "session": 256}
SECONDS_FOR_AN_INPUT = 30
# The sanitizer keeps little of what was freed: inputs are short, and millions of them follow.
ASAN_OPTIONS = "quarantine_size_mb=8:malloc_context_size=8:detect_stack_use_after_return=0"
DONE = re.compile(
    r"^#(?P<runs>\d+)\s+DONE\s+cov: (?P<edges>\d+) ft: (?P<features>\d+)", re.MULTILINE
)


def run(target: str, seconds: int, runs: int) -> tuple[bool, str]:
    """Whether a target found nothing, and what it printed."""
    found, failures = BUILD / "found" / target, BUILD / "failures"
    for folder in (found, failures):
        folder.mkdir(parents=True, exist_ok=True)
    command = [
        str(BUILD / "tests" / "fuzz" / f"fuzz_{target}"),
        f"-max_total_time={seconds}",
        f"-runs={runs}",
        f"-max_len={LONGEST[target]}",
        f"-timeout={SECONDS_FOR_AN_INPUT}",
        f"-artifact_prefix={failures}/{target}-",
        "-entropic=0",  # weighing rare inputs costs a third of the executions here
        "-print_final_stats=1",
        str(found),
        str(ROOT / "tests" / "fuzz" / "corpus" / target),
    ]
    done = subprocess.run(
        command,
        env={**os.environ, "ASAN_OPTIONS": ASAN_OPTIONS, "UBSAN_OPTIONS": "print_stacktrace=1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    return done.returncode == 0, done.stdout


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--seconds", type=int, default=60, help="for each target; 0: no end")
    parser.add_argument("--runs", type=int, default=-1, help="executions of each; -1: no end")
    parser.add_argument("--junit-xml", type=Path, help="where to write the outcome of each target")
    arguments = parser.parse_args()
    unknown = set(arguments.targets) - set(TARGETS)
    if unknown:
        parser.error(f"unknown targets {sorted(unknown)}; there are: {', '.join(TARGETS)}")
    if arguments.seconds <= 0 and arguments.runs < 0:
        parser.error("it would never end: give --seconds or --runs")

    suite = ElementTree.Element("testsuite", name="fuzz")
    failed = []
    for target in arguments.targets or TARGETS:
        started = time.monotonic()
        ok, output = run(target, arguments.seconds, arguments.runs)
        seconds = time.monotonic() - started
        counts = DONE.search(output)
        case = ElementTree.SubElement(suite, "testcase", name=target, time=f"{seconds:.1f}")
        if ok and counts:
            rate = int(counts["runs"]) / seconds
            print(
                f"{target:10} {int(counts['runs']):,} executions, {rate:,.0f} a second, "
                f"{counts['edges']} edges, {counts['features']} features",
                flush=True,
            )
        else:
            failed.append(target)
            print(f"{target:10} FAILED\n{output}", flush=True)
            ElementTree.SubElement(case, "failure").text = output[-8000:]
    if arguments.junit_xml:
        ElementTree.ElementTree(suite).write(arguments.junit_xml)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

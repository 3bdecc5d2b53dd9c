# SPDX-License-Identifier: Apache-2.0
"""Runs clang-tidy on every C++ source of a compilation database, skipping what has not changed.

A file that was clean stays clean while nothing that decides the outcome changes: its text, the
text of every header of this repository that it includes, its compile command, the configuration
and clang-tidy itself. Their digest names an empty file in the cache folder.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

QUOTED_INCLUDE = re.compile(r'^\s*#\s*include\s*"([^"]+)"', re.MULTILINE)
INCLUDE_ROOTS = ("csrc", "tests/csrc")
SUPPRESSED = re.compile(r"^\d+ warnings? .*generated\.$|^Suppressed \d+ |^Use -header-filter")


@dataclass(frozen=True)
class Unit:
    """One source file and the command that compiles it."""

    source: Path
    command: str


@cache
def includes(source: Path, root: Path) -> frozenset[Path]:
    """The headers of this repository that `source` includes itself."""
    folders = [source.parent, *(root / folder for folder in INCLUDE_ROOTS)]
    found = set()
    for name in QUOTED_INCLUDE.findall(source.read_text()):
        path = next((folder / name for folder in folders if (folder / name).is_file()), None)
        if path is not None:
            found.add(path.resolve())
    return frozenset(found)


def closure(source: Path, root: Path) -> list[Path]:
    """`source` and every header of this repository that it includes, however deep."""
    seen: set[Path] = set()
    pending = [source]
    while pending:
        path = pending.pop()
        if path not in seen:
            seen.add(path)
            pending += includes(path, root)
    return sorted(seen)


def configuration(source: Path, root: Path) -> list[Path]:
    """The .clang-tidy files that apply to `source`."""
    folders = [folder for folder in source.parents if folder.is_relative_to(root)]
    return [path for folder in folders if (path := folder / ".clang-tidy").is_file()]


def digest(unit: Unit, root: Path, version: str) -> str:
    state = hashlib.sha256(version.encode())
    state.update(unit.command.encode())
    for path in [*configuration(unit.source, root), *closure(unit.source, root)]:
        state.update(str(path.relative_to(root)).encode() + b"\0")
        state.update(hashlib.sha256(path.read_bytes()).digest())
    return state.hexdigest()


def units(database: Path, root: Path) -> list[Unit]:
    """The compilation database's sources inside the repository, once each."""
    entries = json.loads((database / "compile_commands.json").read_text())
    by_source = {}
    for entry in entries:
        source = Path(entry["directory"], entry["file"]).resolve()
        inside = any(source.is_relative_to(root / folder) for folder in INCLUDE_ROOTS)
        if inside:
            by_source[source] = Unit(source, entry["command"])
    return sorted(by_source.values(), key=lambda unit: unit.source.stat().st_size, reverse=True)


def check(unit: Unit, clang_tidy: str, database: Path) -> str:
    """clang-tidy's findings on one file; empty when it is clean."""
    done = subprocess.run(
        [clang_tidy, "--quiet", "-p", str(database), str(unit.source)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 0:
        return ""
    lines = (done.stdout + done.stderr).splitlines()
    kept = [line for line in lines if not SUPPRESSED.match(line)]
    return "\n".join(kept) or f"{unit.source}: clang-tidy exited with {done.returncode}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--database", type=Path, required=True, help="folder of the compile commands"
    )
    parser.add_argument("--cache", type=Path, required=True, help="folder of the clean digests")
    parser.add_argument("--clang-tidy", default="clang-tidy")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    arguments = parser.parse_args()

    root = Path(__file__).resolve().parent.parent
    clang_tidy = shutil.which(arguments.clang_tidy)
    if clang_tidy is None:
        sys.exit(
            f"clang-tidy not found as {arguments.clang_tidy!r}: run 'make lint', which installs it"
        )
    version = subprocess.run([clang_tidy, "--version"], capture_output=True, text=True, check=True)
    arguments.cache.mkdir(parents=True, exist_ok=True)

    marks = {
        unit: arguments.cache / digest(unit, root, version.stdout)
        for unit in units(arguments.database, root)
        if unit.source.is_relative_to(root / "csrc")  # what is shipped; sanitizers judge the tests
    }
    stale = [unit for unit, mark in marks.items() if not mark.exists()]
    print(
        f"clang-tidy: {len(stale)} of {len(marks)} files changed since they were clean", flush=True
    )
    failures = 0
    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        pending = {pool.submit(check, unit, clang_tidy, arguments.database): unit for unit in stale}
        for future in concurrent.futures.as_completed(pending):
            findings = future.result()
            if findings:
                failures += 1
                print(findings, flush=True)
            else:
                marks[pending[future]].touch()
    kept = {mark.name for mark in marks.values()}
    for mark in arguments.cache.iterdir():
        if mark.name not in kept:
            mark.unlink()
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

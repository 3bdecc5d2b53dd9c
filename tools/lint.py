# SPDX-License-Identifier: Apache-2.0
"""Runs every static check of the repository and says which failed.

Each check stands alone, so that one run shows everything that is wrong.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent

# What the sources of each layer may include: itself and the layers below it.
LAYERS = {
    "core": {"core"},
    "layout": {"core", "layout"},
    "protocol": {"core", "layout", "protocol"},
    "transport": {"core", "layout", "transport"},
    "engine": {"core", "layout", "protocol", "transport", "engine"},
    "bindings": {"core", "layout", "protocol", "transport", "engine", "bindings"},
}
LAYER_INCLUDE = re.compile(r'^\s*#\s*include\s*"(\w+)/', re.MULTILINE)
LICENSE_LINE = "SPDX-License-Identifier: Apache-2.0"
LICENSED_SUFFIXES = {".cpp", ".hpp", ".py", ".pyi", ".sh", ".toml", ".cmake"}


def run(*command: str | Path) -> list[str]:
    """Runs a tool in the repository; its output lines if it fails, else nothing."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode == 0:
        return []
    return done.stdout.splitlines() or [f"{command[0]} exited with {done.returncode}"]


def repository_files() -> Iterable[Path]:
    """Every file that git tracks or would track."""
    listing = subprocess.run(
        # Whichever git the user's shell would start.
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],  # nosec B607
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    paths = (ROOT / name for name in listing.stdout.split("\0") if name)
    return (path for path in paths if path.is_file())


def cpp_files() -> list[Path]:
    folders = (ROOT / "csrc", ROOT / "tests" / "csrc")
    return sorted(path for folder in folders for path in folder.rglob("*.[ch]pp"))


def license_lines() -> list[str]:
    """Sources that do not begin with the license line (after a '#!' line, where there is one)."""
    findings = []
    for path in repository_files():
        if path.suffix in LICENSED_SUFFIXES:
            head = path.read_text().splitlines()[:2]
            if not any(LICENSE_LINE in line for line in head):
                findings.append(f"{path.relative_to(ROOT)}: does not begin with '{LICENSE_LINE}'")
    return findings


def layer_direction() -> list[str]:
    """Includes that point from a layer to one above it."""
    findings = []
    for layer, allowed in LAYERS.items():
        for path in sorted((ROOT / "csrc" / layer).rglob("*.[ch]pp")):
            for included in LAYER_INCLUDE.findall(path.read_text()):
                if included in LAYERS and included not in allowed:
                    name = path.relative_to(ROOT)
                    findings.append(f"{name}: {layer} must not depend on {included}")
    return findings


def bandit() -> list[str]:
    """Known ways to be insecure, in everything of Python that is not a test."""
    folders = ("mooncake_connector", "tools", "examples")
    return run(BIN / "bandit", "--quiet", "--configfile", "pyproject.toml", "--recursive", *folders)


def clang_tidy() -> list[str]:
    configure = [BIN / "cmake", "--preset", "lint", f"-DPython_EXECUTABLE={sys.executable}"]
    failed = run(*configure)
    if failed:
        return failed
    return run(
        sys.executable,
        ROOT / "tools" / "clang_tidy.py",
        *("--database", ROOT / "build" / "lint"),
        *("--cache", ROOT / ".cache" / "clang-tidy"),
        *("--clang-tidy", BIN / "clang-tidy"),
    )


CHECKS: dict[str, Callable[[], list[str]]] = {
    "license lines": license_lines,
    "layer direction": layer_direction,
    "ruff check": lambda: run(BIN / "ruff", "check", "--quiet", "."),
    "ruff format": lambda: run(BIN / "ruff", "format", "--check", "."),
    "mypy": lambda: run(BIN / "mypy"),
    "bandit": bandit,
    "clang-format": lambda: run(BIN / "clang-format", "--dry-run", "-Werror", *cpp_files()),
    "clang-tidy": clang_tidy,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checks", nargs="*", metavar="CHECK", help=", ".join(CHECKS))
    parser.add_argument("--junit-xml", type=Path, help="where to write the outcome of each check")
    arguments = parser.parse_args()
    unknown = set(arguments.checks) - set(CHECKS)
    if unknown:
        parser.error(f"unknown checks {sorted(unknown)}; there are: {', '.join(CHECKS)}")

    suite = ElementTree.Element("testsuite", name="lint")
    failed = []
    for name in arguments.checks or CHECKS:
        started = time.monotonic()
        findings = CHECKS[name]()
        seconds = time.monotonic() - started
        print(f"{name:16} {'FAILED' if findings else 'ok':8} {seconds:6.1f} s", flush=True)
        case = ElementTree.SubElement(suite, "testcase", name=name, time=f"{seconds:.1f}")
        if findings:
            failed.append(name)
            text = "\n".join(findings)
            print(text, flush=True)
            ElementTree.SubElement(case, "failure").text = text
    if arguments.junit_xml:
        ElementTree.ElementTree(suite).write(arguments.junit_xml)
    if failed:
        print(f"lint: {', '.join(failed)} failed ('make format' repairs what is only formatting)")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

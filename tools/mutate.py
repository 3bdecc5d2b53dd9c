# SPDX-License-Identifier: Apache-2.0
"""Plants mistakes in the sources and demands that the tests made for them find each of them.

    tools/mutate.py [--quick] [--seeds N] [--junit-xml FILE] [WORD ...]

Words choose those whose names contain one.

It needs the preset "asan", built. A mistake costs one compilation and one link: the spoilt object
stands in front of the library that it comes from. Nothing in the repository is touched. A mistake
that is not found, or whose text is not in the source any more, is a failure.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from xml.etree import ElementTree

from hostile_mutations import HOSTILE
from mutation import Mutation
from mutations import SIMULATED

MUTATIONS = SIMULATED + HOSTILE
ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "asan"
SIMULATOR = "*Simulation.EverythingEndsOnce*"
# Of a seed; see how_to_replay() in the simulator.
FAILING_SEED = re.compile(r"seed (\d+); replay it with")
RAN = re.compile(r"^\[==========\] Running (\d+) tests? from", re.MULTILINE)
# A mistake may make a test or the simulator endless; compilers always end.
TESTS_PATIENCE_SECONDS = 120
PATIENCE_SECONDS = 900
COMPILERS_PATIENCE_SECONDS = 3600
# Leaks are not what is looked for here, and looking for them is slow.
ENVIRONMENT = {"ASAN_OPTIONS": "detect_leaks=0"}


class BrokenError(Exception):
    """A mistake was not found, or cannot be planted; the text says why."""


def run(
    command: Sequence[str | Path],
    cwd: Path = ROOT,
    environment: dict[str, str] | None = None,
    patience: float = PATIENCE_SECONDS,
) -> tuple[int, str]:
    """Exit status and output of a command."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={**os.environ, **ENVIRONMENT, **(environment or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=patience,
        check=False,
    )
    return done.returncode, done.stdout


def spoilt(text: str, mutation: Mutation) -> str:
    """The source with the mistake in it.

    Raises:
        BrokenError: its text does not occur exactly once.
    """
    found = text.count(mutation.old)
    if found != 1:
        raise BrokenError(
            f"its text occurs {found} times in csrc/{mutation.file} and not once; "
            f"bring tools/mutations.py up to date:\n{mutation.old}"
        )
    return text.replace(mutation.old, mutation.new)


class Build:
    """A build folder, of whose test binaries variants are made."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._commands: dict[str, list[str]] = {}

    def commands(self, target: str) -> list[str]:
        """What ninja runs to build a target."""
        if target not in self._commands:
            here = Path(sys.executable).parent  # with cmake and ninja
            ninja = shutil.which("ninja", path=f"{here}:{os.environ['PATH']}") or "ninja"
            status, output = run([ninja, "-C", self.folder, "-t", "commands", target])
            if status != 0:
                raise BrokenError(f"the preset 'asan' is not built:\n{output[-2000:]}")
            self._commands[target] = output.splitlines()
        return self._commands[target]

    def original(self, target: str) -> Path:
        """The binary without a mistake."""
        return self.folder / "tests" / "csrc" / target

    def variant(self, mutation: Mutation, folder: Path) -> Path:
        """A test binary in which the mistake is planted.

        Raises:
            BrokenError: it cannot be planted.
        """
        source = ROOT / "csrc" / mutation.file
        mutant = folder / source.name
        mutant.write_text(spoilt(source.read_text(), mutation))
        commands = self.commands(mutation.target)
        compile_command = next(
            words for words in map(shlex.split, commands) if words[-2:] == ["-c", str(source)]
        )
        spoilt_object, binary = mutant.with_suffix(".o"), folder / mutation.target
        compiled = _with_output(compile_command[:-1], spoilt_object)
        self._build([*_without_dependencies(compiled), mutant])

        # The last command links, and may go on to do other things.
        steps = [shlex.split(step) for step in commands[-1].split(" && ")]
        link = _with_output(next(step for step in steps if "-o" in step), binary)
        first_library = next(at for at, word in enumerate(link) if word.endswith(".a"))
        self._build([*link[:first_library], spoilt_object, *link[first_library:]])
        return binary

    def _build(self, command: Sequence[str | Path]) -> None:
        status, output = run(command, cwd=self.folder, patience=COMPILERS_PATIENCE_SECONDS)
        if status != 0:
            raise BrokenError(f"it does not build:\n{output[-4000:]}")


def _with_output(words: Sequence[str], output: Path) -> list[str]:
    at = words.index("-o") + 1
    return [*words[:at], str(output), *words[at + 1 :]]


def _without_dependencies(words: Sequence[str]) -> list[str]:
    kept = list(words)
    for option in ("-MT", "-MF"):
        at = kept.index(option)
        del kept[at : at + 2]
    return [word for word in kept if word != "-MD"]


def first_failing_seed(binary: Path, seeds: int) -> int | None:
    """The lowest of the first seeds that the simulator shows to fail."""
    status, output = run(
        [binary, f"--gtest_filter={SIMULATOR}"],
        environment={"MC_SEEDS": str(seeds), "MC_SEED": "0"},
    )
    failing = [int(seed) for seed in FAILING_SEED.findall(output)]
    if status != 0 and not failing:
        raise BrokenError(f"the simulator ended with {status} and named no seed:\n{output[-4000:]}")
    return min(failing, default=None)


def passes(binary: Path, test: str) -> bool:
    """Whether a test does; to crash or to hang is not to pass."""
    try:
        status, output = run([binary, f"--gtest_filter={test}"], patience=TESTS_PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        return False
    ran = RAN.search(output)
    if ran is None or ran[1] == "0":
        raise BrokenError(f"there is no test {test}")
    return status == 0


def find(binary: Path, mutation: Mutation, seeds: int) -> str:
    """What shows the mistake.

    Raises:
        BrokenError: nothing does.
    """
    if not mutation.found_by:
        seed = first_failing_seed(binary, seeds)
        if seed is None:
            raise BrokenError(f"NOT FOUND by {seeds} seeds")
        return f"seed {seed}"
    blind = [test for test in mutation.found_by if passes(binary, test)]
    if blind:
        raise BrokenError(f"NOT FOUND by {', '.join(blind)}")
    return ", ".join(mutation.found_by)


def attempt(build: Build, mutation: Mutation, seeds: int) -> tuple[str, str | None, float]:
    """What showed a mistake, or else what is wrong; and how long it took."""
    started = time.monotonic()
    shown, problem = "FAILED", None
    try:
        with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
            shown = find(build.variant(mutation, Path(folder)), mutation, seeds)
    except BrokenError as error:
        problem = str(error)
    except subprocess.TimeoutExpired:
        problem = f"took longer than {PATIENCE_SECONDS} s"
    return shown, problem, time.monotonic() - started


def check_originals(build: Build, mutations: Sequence[Mutation]) -> None:
    """Raises BrokenError if something fails without any mistake."""
    for mutation in mutations:
        binary = build.original(mutation.target)
        for test in mutation.found_by:
            if not passes(binary, test):
                raise BrokenError(f"{test} fails without any mistake")
    if any(not mutation.found_by for mutation in mutations):
        seed = first_failing_seed(build.original("test_protocol"), seeds=100)
        if seed is not None:
            raise BrokenError(f"the simulator fails without any mistake, with seed {seed}")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("words", nargs="*", metavar="WORD", help="only mistakes with this word")
    parser.add_argument("--quick", action="store_true", help="only those that tell most")
    parser.add_argument("--seeds", type=int, default=2000, help="of the simulator, to find each in")
    parser.add_argument("--junit-xml", type=Path, help="where to write the outcome of each")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    chosen = [
        mutation
        for mutation in MUTATIONS
        if (mutation.quick or not arguments.quick)
        and (not arguments.words or any(word in mutation.name for word in arguments.words))
    ]
    if not chosen:
        parser.error("no mutation has such a word in its name")
    build = Build(BUILD)
    check_originals(build, chosen)
    suite = ElementTree.Element("testsuite", name="mutants")
    with ThreadPoolExecutor(arguments.jobs) as pool:
        outcomes = pool.map(lambda mutation: attempt(build, mutation, arguments.seeds), chosen)
        for mutation, (shown, problem, seconds) in zip(chosen, outcomes, strict=True):
            print(f"{seconds:5.1f} s  {mutation.name}: {shown}", flush=True)
            case = ElementTree.SubElement(
                suite, "testcase", name=mutation.name, time=f"{seconds:.1f}"
            )
            if problem:
                print(problem, flush=True)
                ElementTree.SubElement(case, "failure").text = problem
    if arguments.junit_xml:
        ElementTree.ElementTree(suite).write(arguments.junit_xml)
    missed = len(suite.findall("testcase/failure"))
    print(f"{len(chosen) - missed} of {len(chosen)} mistakes were found")
    return 1 if missed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BrokenError as broken:
        sys.exit(f"the mutation test cannot be done: {broken}")

# SPDX-License-Identifier: Apache-2.0
"""Plants mistakes in a copy of the protocol and demands that the simulator finds each of them.

    tools/mutate.py [--seeds N] [--junit-xml FILE] [WORD ...]     those whose names contain a word

The copy is built once, without sanitizers; each mistake then rebuilds the files that it touches.
A mistake that N seeds do not show, or whose text is not in the source any more, is a failure.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from xml.etree import ElementTree

from mutations import MUTATIONS, Mutation

ROOT = Path(__file__).resolve().parent.parent
SIMULATOR = "test_simulation.cpp"
TARGET = "test_protocol"
# Of a seed; see how_to_replay() in the simulator.
FAILING_SEED = re.compile(r"seed (\d+); replay it with")
# A mistake may make the simulation endless.
PATIENCE_SECONDS = 300


class BrokenError(Exception):
    """The mutation test itself cannot be done; the text says why."""


def run(*command: str | Path, environment: dict[str, str] | None = None) -> tuple[int, str]:
    """Exit status and output of a command."""
    done = subprocess.run(
        [str(word) for word in command],
        env={**os.environ, **(environment or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    return done.returncode, done.stdout


class Copy:
    """The sources that the simulator is built of, in a folder where they may be spoilt."""

    def __init__(self, folder: Path, jobs: int) -> None:
        self.folder = folder
        self.build_folder = folder / "build"
        self.jobs = jobs
        shutil.copy(ROOT / "CMakeLists.txt", folder)
        shutil.copytree(ROOT / "csrc", folder / "csrc")
        shutil.copytree(ROOT / "tests" / "csrc", folder / "tests" / "csrc")
        # Only the simulator is asked: the other tests would just have to be built.
        for test in (folder / "tests" / "csrc" / "protocol").glob("test_*.cpp"):
            if test.name != SIMULATOR:
                test.unlink()
        launcher = ["-DCMAKE_CXX_COMPILER_LAUNCHER=ccache"] if shutil.which("ccache") else []
        status, output = run(
            "cmake",
            *("-S", folder, "-B", self.build_folder, "-G", "Ninja"),
            *("-DMC_TESTS=ON", "-DMC_BINDINGS=OFF"),
            *("-DCMAKE_BUILD_TYPE=None", "-DCMAKE_CXX_FLAGS=-O1"),
            *launcher,
        )
        if status != 0:
            raise BrokenError(f"cmake failed:\n{output}")

    def source(self, mutation: Mutation) -> Path:
        """The file that the mutation is planted in."""
        return self.folder / "csrc" / "protocol" / mutation.file

    def build(self) -> None:
        """Builds the simulator."""
        status, output = run(
            "cmake", "--build", self.build_folder, "--target", TARGET, "-j", str(self.jobs)
        )
        if status != 0:
            raise BrokenError(f"it does not compile:\n{output[-4000:]}")

    def first_failing_seed(self, seeds: int) -> int | None:
        """The lowest seed that fails among the first `seeds` ones."""
        status, output = run(
            self.build_folder / "tests" / "csrc" / TARGET,
            "--gtest_filter=*Simulation.EverythingEndsOnce*",
            environment={"MC_SEEDS": str(seeds), "MC_SEED": "0"},
        )
        failing = [int(seed) for seed in FAILING_SEED.findall(output)]
        if status != 0 and not failing:
            raise BrokenError(
                f"the simulator ended with {status} and named no seed:\n{output[-4000:]}"
            )
        return min(failing, default=None)


def plant(copy: Copy, mutation: Mutation, seeds: int) -> int:
    """The seed that shows the mistake.

    Raises:
        BrokenError: None does, or the mistake cannot be planted.
    """
    source = copy.source(mutation)
    original = source.read_text()
    found = original.count(mutation.old)
    if found != 1:
        raise BrokenError(
            f"its text occurs {found} times in csrc/protocol/{mutation.file} and not once; "
            f"bring tools/mutations.py up to date:\n{mutation.old}"
        )
    source.write_text(original.replace(mutation.old, mutation.new))
    try:
        copy.build()
        seed = copy.first_failing_seed(seeds)
    except subprocess.TimeoutExpired as late:
        raise BrokenError(f"took longer than {PATIENCE_SECONDS} s") from late
    finally:
        source.write_text(original)
    if seed is None:
        raise BrokenError(f"NOT FOUND by {seeds} seeds")
    return seed


def run_all(mutations: Iterable[Mutation], copy: Copy, seeds: int) -> ElementTree.Element:
    """The outcome of each mutation as a JUnit suite."""
    suite = ElementTree.Element("testsuite", name="mutants")
    for mutation in mutations:
        started = time.monotonic()
        problem = None
        try:
            verdict = f"seed {plant(copy, mutation, seeds)}"
        except BrokenError as error:
            problem = str(error)
            verdict = "FAILED"
        seconds = time.monotonic() - started
        print(f"{verdict:12} {seconds:5.1f} s  {mutation.name}", flush=True)
        case = ElementTree.SubElement(suite, "testcase", name=mutation.name, time=f"{seconds:.1f}")
        if problem:
            print(problem, flush=True)
            ElementTree.SubElement(case, "failure").text = problem
    return suite


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("words", nargs="*", metavar="WORD", help="only mutations with this word")
    parser.add_argument("--seeds", type=int, default=2000, help="to find each in")
    parser.add_argument("--junit-xml", type=Path, help="where to write the outcome of each")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    chosen = [
        mutation
        for mutation in MUTATIONS
        if not arguments.words or any(word in mutation.name for word in arguments.words)
    ]
    if not chosen:
        parser.error("no mutation has such a word in its name")
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copy = Copy(Path(folder), arguments.jobs)
        copy.build()
        if (seed := copy.first_failing_seed(min(arguments.seeds, 100))) is not None:
            print(f"the simulator fails without any mutation, with seed {seed}")
            return 1
        suite = run_all(chosen, copy, arguments.seeds)
    if arguments.junit_xml:
        ElementTree.ElementTree(suite).write(arguments.junit_xml)
    missed = len(suite.findall("testcase/failure"))
    print(f"{len(chosen) - missed} of {len(chosen)} mutations were found")
    return 1 if missed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BrokenError as broken:
        sys.exit(f"the mutation test cannot be done: {broken}")

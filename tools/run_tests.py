# SPDX-License-Identifier: Apache-2.0
"""Runs the test stages and closes with what passed, failed and was not run.

    tools/run_tests.py [STAGE ...]      all stages when none is named

Stages that keep time run one after another. What only computes (static analysis, builds, mutants,
fuzzing) runs beside them, one after another too, with low priority: servers that start leave half
of two cores idle.

Every stage leaves its output in logs/tests/ and a JUnit report in build/reports/, from which the
counts are read. A stage whose environment this machine cannot have is named as not run; where CI
is set that is a failure, because there everything must run.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from junit import Report, read_report
from processes import end_all, run_logged

ROOT = Path(__file__).resolve().parent.parent
LOGS = ROOT / "logs" / "tests"
REPORTS = ROOT / "build" / "reports"
# A stage is ended at this multiple of its budget: slow machines pass, hangs do not.
PATIENCE = 3
# What all of them should take, beside each other, on two cores; in seconds.
BUDGET = 1800
LOW_PRIORITY = ("nice", "-n", "10")

# What imports a serving engine lives here, whatever kind of test it is.
VLLM_TESTS = ("tests/unit/vllm", "tests/e2e")
SGLANG_TESTS = ("tests/unit/sglang", "tests/e2e_sglang")

Command = tuple[str, ...]


@dataclass(frozen=True)
class Stage:
    """Commands that yield one JUnit report.

    Attributes:
        name: What the user calls the stage.
        title: What it tests.
        budget: Seconds it should take on two cores, with nothing built before.
        prepare: Commands that must succeed before `test`.
        test: Writes the report; fails when a test fails.
        beside: What of it runs beside the stages that keep time.
        lacking: Pattern in the output of a failed `prepare` that says this machine lacks something,
            with the reason as its first group. Any other failure is a failure.
    """

    name: str
    title: str
    budget: int
    test: Command
    prepare: Sequence[Command] = ()
    beside: Literal["nothing", "prepare", "all"] = "nothing"
    lacking: str | None = None

    @property
    def report(self) -> Path:
        """The JUnit file that `test` writes."""
        return REPORTS / f"{self.name}.xml"

    @property
    def log(self) -> Path:
        """All that the commands print."""
        return LOGS / f"{self.name}.log"


@dataclass(frozen=True)
class Outcome:
    """How a stage went; `not_run` says what the machine lacks for it."""

    stage: Stage
    seconds: float
    report: Report
    not_run: str | None = None


def cpp(preset: str, title: str, budget: int) -> Stage:
    """The C++ tests in one of the builds of CMakePresets.json."""
    report = REPORTS / f"{preset}.xml"
    return Stage(
        name=preset,
        title=title,
        budget=budget,
        prepare=(
            (".venv/bin/cmake", "--preset", preset),
            (".venv/bin/cmake", "--build", "--preset", preset),
        ),
        beside="prepare",
        test=(".venv/bin/ctest", "--preset", preset, "--output-junit", str(report)),
        lacking=r"(The C\+\+ tests need GoogleTest[^.]*\.)",
    )


def pytest(name: str, title: str, budget: int, *paths: str) -> Stage:
    """Python tests that need no serving engine."""
    return Stage(
        name=name,
        title=title,
        budget=budget,
        test=(".venv/bin/pytest", f"--junit-xml={REPORTS / name}.xml", *paths),
        prepare=(("make", "--no-print-directory", "install"),),
    )


def inside(engine: str, title: str, budget: int, *paths: str) -> Stage:
    """Tests in the environment of a serving engine."""
    return Stage(
        name=engine,
        title=title,
        budget=budget,
        prepare=(("make", "--no-print-directory", f"{engine}-env"),),
        test=(f".venv-{engine}/bin/pytest", f"--junit-xml={REPORTS / engine}.xml", *paths),
        lacking=r"(.*(?:is pinned for Python|needs libnuma|No matching distribution).*)",
    )


STAGES = (
    pytest(
        "unit",
        "Python units; builds the wheel",
        360,
        "tests/unit",
        *(f"--ignore={tests[0]}" for tests in (VLLM_TESTS, SGLANG_TESTS)),
    ),
    pytest("contract", "Every path against one suite", 120, "tests/contract"),
    pytest("integration", "Processes that die, freeze, restart", 210, "tests/integration"),
    Stage(
        name="lint",
        title="Formatting, types, static analysis",
        budget=600,
        beside="all",
        test=(".venv/bin/python", "tools/lint.py", "--junit-xml", str(REPORTS / "lint.xml")),
    ),
    # A third build without sanitizers would show nothing that these two do not.
    cpp("asan", "C++ under AddressSanitizer, UBSan", 360),
    cpp("tsan", "C++ with threads, under ThreadSanitizer", 240),
    Stage(
        name="mutants",
        title="Planted mistakes that tests find",
        budget=600,
        beside="all",
        prepare=(
            (".venv/bin/cmake", "--preset", "asan"),
            (".venv/bin/cmake", "--build", "--preset", "asan"),
        ),
        test=(
            *(".venv/bin/python", "tools/mutate.py", "--quick"),
            *("--junit-xml", str(REPORTS / "mutants.xml")),
        ),
        lacking=r"(The C\+\+ tests need GoogleTest[^.]*\.)",
    ),
    Stage(
        name="fuzz",
        title="What peers may say, by libFuzzer",
        budget=400,
        beside="all",
        prepare=(
            (".venv/bin/cmake", "--preset", "fuzz"),
            (".venv/bin/cmake", "--build", "--preset", "fuzz"),
        ),
        # A minute in all; docs/security.md says what longer runs did.
        test=(
            *(".venv/bin/python", "tools/fuzz.py", "--seconds", "20"),
            *("--junit-xml", str(REPORTS / "fuzz.xml")),
        ),
        lacking=r"(The fuzz targets need [^.]*\.)",
    ),
    inside("vllm", "Inside vLLM; makes its environment", 750, *VLLM_TESTS),
    inside("sglang", "Inside SGLang; makes its environment", 600, *SGLANG_TESTS),
)


def run_stages(stages: Sequence[Stage]) -> list[Outcome]:
    """Runs them, and returns what became of each, in their order."""
    outcomes: dict[str, Outcome] = {}
    whole: dict[str, Future[Outcome]] = {}
    prepared: dict[str, Future[Stage]] = {}
    with ThreadPoolExecutor(1) as beside:
        try:
            for stage in stages:
                stage.log.unlink(missing_ok=True)
                if stage.beside == "all":
                    whole[stage.name] = beside.submit(run_stage, stage, True)
                elif stage.beside == "prepare":
                    prepared[stage.name] = beside.submit(prepare, stage)
            for stage in stages:
                if stage.beside == "nothing":
                    outcomes[stage.name] = run_stage(stage)
            for name, rest in prepared.items():
                outcomes[name] = run_stage(rest.result())
            for name, outcome in whole.items():
                outcomes[name] = outcome.result()
        except BaseException:
            beside.shutdown(wait=False, cancel_futures=True)
            end_all()
            raise
    return [outcomes[stage.name] for stage in stages]


def prepare(stage: Stage) -> Stage:
    """Returns what is left of a stage: all of it if preparing failed, so that it says why."""
    deadline = time.monotonic() + PATIENCE * stage.budget
    with stage.log.open("a") as log:
        for command in stage.prepare:
            ending = run_logged((*LOW_PRIORITY, *command), log, deadline, cwd=ROOT, echo=False)
            if not ending.ok:
                return stage
    return replace(stage, prepare=())


def run_stage(stage: Stage, beside: bool = False) -> Outcome:
    """Runs one stage; what is printed beside others is shown when it has ended."""
    title = f"\n== {stage.name}: {stage.title} (budget {stage.budget} s)"
    if not beside:
        print(title, flush=True)
    outcome = _run_stage(stage, LOW_PRIORITY if beside else ())
    if beside:
        print(f"{title}, beside the others\n{stage.log.read_text()}", flush=True)
    return outcome


def _run_stage(stage: Stage, prefix: Command) -> Outcome:
    started = time.monotonic()
    deadline = started + PATIENCE * stage.budget
    stage.report.unlink(missing_ok=True)
    problem = lacking = None
    with stage.log.open("a") as log:
        for command in (*stage.prepare, stage.test):
            ending = run_logged((*prefix, *command), log, deadline, cwd=ROOT, echo=not prefix)
            if not ending.ok:
                problem = f"'{' '.join(command[:3])} ...' {ending.reason}"
                if stage.lacking and command is not stage.test:
                    lacking = re.search(stage.lacking, ending.output)
                break
    seconds = time.monotonic() - started
    if lacking:
        return Outcome(stage, seconds, Report(), not_run=" ".join(lacking[1].split()))

    report = read_report(stage.report) if stage.report.exists() else Report()
    if problem is None and report.empty:
        problem = "ran no test"
    if problem and not report.failures:
        report.failures.append(f"{problem}; see {stage.log.relative_to(ROOT)}")
    return Outcome(stage, seconds, report)


def table(outcomes: Sequence[Outcome], seconds: float) -> str:
    rows = [f"{'stage':12} {'passed':>7} {'failed':>7} {'skipped':>8} {'time':>8} {'budget':>8}"]
    for outcome in outcomes:
        report, budget = outcome.report, outcome.stage.budget
        counts = f"{report.passed:7} {len(report.failures):7} {len(report.skipped):8}"
        late = "  over its budget" if outcome.seconds > budget else ""
        rows.append(
            f"{outcome.stage.name:12} {'not run' if outcome.not_run else counts:>24} "
            f"{outcome.seconds:6.0f} s {budget:6} s{late}"
        )
    late = "  over its budget" if seconds > BUDGET else ""
    rows.append(f"{'in all':12} {'':24} {seconds:6.0f} s {BUDGET:6} s{late}")
    return "\n".join(rows)


def summarise(outcomes: Sequence[Outcome], seconds: float, everything_must_run: bool) -> int:
    """Prints what became of every stage; returns the exit status."""
    skipped, not_run, failed = [], [], []
    for outcome in outcomes:
        name = outcome.stage.name
        skipped += [f"{name}: {line}" for line in outcome.report.skipped]
        failed += [f"{name}: {line}" for line in outcome.report.failures]
        if outcome.not_run and everything_must_run:
            failed.append(f"{name}: not run, and CI runs everything: {outcome.not_run}")
        elif outcome.not_run:
            not_run.append(f"{name}: {outcome.not_run}")
    print(f"\n{table(outcomes, seconds)}")
    for heading, lines in (("Skipped", skipped), ("Not run", not_run), ("Failed", failed)):
        if lines:
            print(f"\n{heading}:", *lines, sep="\n  ")
    passed = sum(outcome.report.passed for outcome in outcomes)
    print(f"\n{passed} passed, {len(failed)} failed, {len(skipped)} skipped")
    return 1 if failed else 0


def main() -> int:
    names = [stage.name for stage in STAGES]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=", ".join(names))
    chosen = parser.parse_args().stages
    unknown = sorted(set(chosen) - set(names))
    if unknown:
        parser.error(f"unknown stages {', '.join(unknown)}; there are: {', '.join(names)}")
    LOGS.mkdir(parents=True, exist_ok=True)
    REPORTS.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    outcomes = run_stages([stage for stage in STAGES if not chosen or stage.name in chosen])
    seconds = time.monotonic() - started
    in_ci = os.environ.get("CI", "").lower() == "true"
    return summarise(outcomes, seconds, everything_must_run=in_ci)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("interrupted; what was running has been ended")

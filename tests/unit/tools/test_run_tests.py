# SPDX-License-Identifier: Apache-2.0
"""The test runner, run on stages made for it: it must never call a bad run good."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]

DRIVER = """
import sys
from pathlib import Path
sys.path.insert(0, {tools!r})
import run_tests
run_tests.ROOT = run_tests.LOGS = run_tests.REPORTS = Path({folder!r})
stages = [
    run_tests.Stage(
        name, name, budget=1, prepare=prepare, test=test, beside=beside, lacking="(no .*)"
    )
    for name, prepare, test, beside in {stages!r}
]
sys.exit(run_tests.summarise(run_tests.run_stages(stages), 1.0, {in_ci!r}))
"""

PASSES = "echo '<testsuite><testcase name=\"a\"/></testsuite>' > {report}"
FAILS = (
    "echo '<testsuite><testcase name=\"a\"><failure/></testcase></testsuite>' > {report}; exit 1"
)


def run(folder: Path, test: str, prepare: str = "true", in_ci: bool = False) -> tuple[int, str]:
    return run_all(folder, [("stage", test, prepare, "nothing")], in_ci)


def run_all(
    folder: Path, written: list[tuple[str, str, str, str]], in_ci: bool = False
) -> tuple[int, str]:
    """Runs stages: name, shell commands of the test and before it, what of them runs beside."""
    stages = [
        (
            name,
            (("bash", "-c", prepare),),
            ("bash", "-c", test.format(report=folder / f"{name}.xml")),
            beside,
        )
        for name, test, prepare, beside in written
    ]
    driver = DRIVER.format(
        tools=str(ROOT / "tools"), folder=str(folder), stages=stages, in_ci=in_ci
    )
    done = subprocess.run(
        [sys.executable, "-c", driver], capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout


def test_counts_what_the_report_says(tmp_path: Path) -> None:
    status, output = run(tmp_path, PASSES)
    assert status == 0
    assert output.splitlines()[-1] == "1 passed, 0 failed, 0 skipped"


@pytest.mark.parametrize(
    ("test", "prepare", "reason"),
    [
        (FAILS, "true", "a: failed"),
        (PASSES + "; exit 3", "true", "exited with 3"),
        (PASSES, "echo gone; exit 4", "exited with 4"),
        ("true", "true", "ran no test"),
        ("sleep 60", "true", "took too long and was ended"),
    ],
    ids=["failed test", "failed command", "failed preparation", "no report", "hang"],
)
def test_failure(tmp_path: Path, test: str, prepare: str, reason: str) -> None:
    status, output = run(tmp_path, test, prepare)
    assert status == 1
    assert reason in output
    assert ", 1 failed, " in output.splitlines()[-1]


def test_what_the_machine_lacks_is_named(tmp_path: Path) -> None:
    status, output = run(tmp_path, PASSES, "echo no compiler; exit 1")
    assert status == 0
    assert "Not run:\n  stage: no compiler" in output
    assert output.splitlines()[-1] == "0 passed, 0 failed, 0 skipped"


def test_ci_must_lack_nothing(tmp_path: Path) -> None:
    status, output = run(tmp_path, PASSES, "echo no compiler; exit 1", in_ci=True)
    assert status == 1
    assert output.splitlines()[-1] == "0 passed, 1 failed, 0 skipped"


def test_a_stage_leaves_no_process_behind(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    run(tmp_path, f"sleep 60 & echo $! > {pid_file}; wait")
    pid = int(pid_file.read_text())
    assert not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text()


def test_what_only_computes_runs_beside(tmp_path: Path) -> None:
    """Each of two stages waits for the other; the third's test begins when both have ended."""
    here, there = tmp_path / "here", tmp_path / "there"
    meet = "touch {mine}; for i in $(seq 100); do [ -e {other} ] && break; sleep 0.02; done; "
    meet += "[ -e {other} ] && "
    stages = [
        ("computes", meet.format(mine=here, other=there) + PASSES, "true", "all"),
        ("built", f"[ -e {tmp_path}/built ] && " + PASSES, f"touch {tmp_path}/built", "prepare"),
        ("keeps_time", meet.format(mine=there, other=here) + PASSES, "true", "nothing"),
    ]
    status, output = run_all(tmp_path, stages)
    assert status == 0, output
    assert output.splitlines()[-1] == "3 passed, 0 failed, 0 skipped"
    table = [line.split()[0] for line in output.splitlines() if " s      1 s" in line]
    assert table == ["computes", "built", "keeps_time"]


def test_what_fails_beside_fails_the_run(tmp_path: Path) -> None:
    stages = [("computes", FAILS, "true", "all"), ("keeps_time", PASSES, "true", "nothing")]
    status, output = run_all(tmp_path, stages)
    assert status == 1
    assert "computes: a: failed" in output
    assert output.splitlines()[-1] == "1 passed, 1 failed, 0 skipped"

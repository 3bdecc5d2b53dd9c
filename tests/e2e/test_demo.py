# SPDX-License-Identifier: Apache-2.0
"""examples/demonstration.py: what it says, what counts as a success, and that nothing is left."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from demonstration import Answer, Comparison, wait_ready
from rich.console import Console
from servers import Servers
from transfer_log import Transfer

RIGHT, WRONG, LOST = Answer(5, "right"), Answer(5, "wrong"), Answer(error="HTTP 500")
TRANSFER = Transfer("r", 5, 4096, 1, "shm", 0.5)
STUB_DEMO = Path(__file__).with_name("stub_demo.py")
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
# A variable by which all processes of a demonstration are found.
MARKER = "STUB_DEMO_FOLDER"


class FakeServers:
    """Servers of which one more answers at each look."""

    def __init__(self) -> None:
        self.servers: list[Any] = []

    def start(self, name: str) -> None:
        self.servers.append(SimpleNamespace(name=name, ready_after=None))

    def wait_ready(self, timeout: float, progress: Callable[[Any], None]) -> None:
        for server in self.servers:
            server.ready_after = server.ready_after or timeout
            progress(self.servers)


def test_each_server_is_announced_once() -> None:
    servers: Any = FakeServers()
    console, told = Console(file=io.StringIO(), width=80), set[str]()
    for name in ("prefill", "router", "proxy"):
        servers.start(name)
        wait_ready(console, servers, 3.0, told)
    output = console.file.getvalue()  # type: ignore[attr-defined]
    assert [line.split()[0] for line in output.splitlines()] == ["prefill", "router", "proxy"]


@pytest.mark.parametrize(
    ("plain", "pair", "transfer", "problem"),
    [
        (RIGHT, RIGHT, TRANSFER, None),
        (RIGHT, WRONG, TRANSFER, "differs"),
        (RIGHT, RIGHT, None, "no transfer"),
        (RIGHT, LOST, TRANSFER, "HTTP 500"),
        (LOST, RIGHT, TRANSFER, "plain server failed"),
    ],
)
def test_only_an_equal_answer_with_a_transfer_counts(
    plain: Answer, pair: Answer, transfer: Transfer | None, problem: str | None
) -> None:
    found = Comparison(plain, pair, transfer).problem
    assert found is None if problem is None else problem in str(found)


def test_equal_answers_end_with_status_0(tmp_path: Path) -> None:
    status, output = finish(tmp_path, "right")
    assert status == 0, output
    assert "all 1 answers equal" in output


def test_differing_answer_ends_with_status_1_and_the_logs_folder(tmp_path: Path) -> None:
    status, output = finish(tmp_path, "wrong")
    assert status == 1, output
    assert "failed: the answer differs: 'wrong' instead of 'right'" in output
    assert f"the servers' logs are in {tmp_path / 'logs'}\n" in output


def test_dead_server_ends_with_status_1_and_the_end_of_its_log(tmp_path: Path) -> None:
    status, output = finish(tmp_path, "dies")
    assert status == 1, output
    assert f"failed: pair ended with 1; the end of {tmp_path / 'logs' / 'pair.log'}:" in output
    assert "    the stub has no pages\n" in output
    assert f"the servers' logs are in {tmp_path / 'logs'}\n" in output


def test_error_of_the_system_ends_with_status_1_and_a_message(tmp_path: Path) -> None:
    status, output = finish(tmp_path, "missing")
    assert status == 1, output
    assert "failed: [Errno 2] No such file or directory: 'no-such-program'" in output
    assert f"the servers' logs are in {tmp_path / 'logs'}\n" in output
    assert "Traceback" not in output


def test_folder_that_cannot_be_made_ends_with_a_message(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "folder"
    status, output = finish(folder, "right")
    assert status == 1, output
    assert "failed: [Errno 20] Not a directory" in output
    assert f"the servers' logs are in {folder / 'logs'}\n" in output
    assert "Traceback" not in output


@pytest.mark.parametrize(("behaviour", "sign"), [("silent", "started"), ("hangs", "asked")])
def test_interrupted_demonstration_stops_all_it_started(
    tmp_path: Path, behaviour: str, sign: str
) -> None:
    log = tmp_path / "logs" / "pair.log"
    with demonstration(tmp_path, behaviour) as process:
        wait_until(lambda: log.exists() and sign in log.read_text().splitlines())
        # The program, two servers, and what each of them started.
        wait_until(lambda: len(processes(tmp_path)) >= 5)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 130, output
        assert "interrupted; all servers have been stopped" in output
        wait_until(lambda: not processes(tmp_path))


def test_interrupt_while_a_server_is_started_leaves_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[subprocess.Popen[bytes]] = []

    class Interrupted(subprocess.Popen):  # type: ignore[type-arg]
        """A process whose start is interrupted before anybody could note it."""

        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            started.append(self)
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    with pytest.raises(KeyboardInterrupt), Servers(tmp_path) as servers:
        servers.start("server", ["sleep", "600"], "http://127.0.0.1:9", {})
    (process,) = started
    try:
        assert process.poll() is not None
    finally:
        process.kill()


def finish(folder: Path, behaviour: str) -> tuple[int, str]:
    """The status and the output of a demonstration, which must have left no process."""
    with demonstration(folder, behaviour) as process:
        output, _ = process.communicate(timeout=120)
        wait_until(lambda: not processes(folder))
    return process.returncode, output


@contextlib.contextmanager
def demonstration(folder: Path, behaviour: str) -> Iterator[subprocess.Popen[str]]:
    """Runs stub_demo.py; whatever is left of it in the end is killed if the test has failed."""
    environment = {**os.environ, "PYTHONPATH": str(EXAMPLES), MARKER: str(folder)}
    command = [sys.executable, str(STUB_DEMO), behaviour, "--folder", str(folder)]
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        yield process
    except BaseException:
        kill_all(folder)
        raise
    finally:
        process.wait()


def processes(folder: Path) -> list[int]:
    """The running processes of a demonstration. (One that has ended has no environment.)"""
    marker = f"{MARKER}={folder}".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if marker in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
    return found


def kill_all(folder: Path) -> None:
    for pid in processes(folder):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def wait_until(condition: Callable[[], bool]) -> None:
    """Waits for something that must happen soon, but may take long on a busy machine."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)

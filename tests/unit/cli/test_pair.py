# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import multiprocessing
import os
import signal
from multiprocessing.process import BaseProcess

import pytest

from mooncake_connector.cli.bench import pair as pair_module
from mooncake_connector.cli.bench import worker as child
from mooncake_connector.cli.bench.options import MIB
from mooncake_connector.cli.bench.pair import Pair, WorkerFailed
from mooncake_connector.cli.bench.worker import Role, Worker
from mooncake_connector.cli.bench.workload import WorkloadSpec

SPEC = WorkloadSpec(256, "random", 100, 200)


def process_of(role: Role) -> BaseProcess:
    return next(p for p in multiprocessing.active_children() if p.name == f"bench-{role}")


def role_of(worker: Worker) -> Role:
    return worker.role


def fail_at(worker: Worker, role: Role) -> None:
    if worker.role is role:
        raise LookupError("no such thing")


def test_functions_run_where_they_should(pair: Pair) -> None:
    assert pair.call(Role.SENDER, role_of) is Role.SENDER
    assert pair.call(Role.RECEIVER, role_of) is Role.RECEIVER
    assert pair.both(role_of) == {role: role for role in Role}


@pytest.mark.parametrize("role", Role)
def test_a_failure_names_the_side_and_the_cause_and_leaves_the_pair_usable(
    pair: Pair, role: Role
) -> None:
    with pytest.raises(WorkerFailed, match=f"the {role} failed .*LookupError: no such thing") as at:
        pair.both(fail_at, role)
    assert at.value.kind == "LookupError"
    assert any("fail_at" in note for note in at.value.__notes__)
    assert pair.both(role_of) == {role: role for role in Role}


def test_two_processes_share_nothing_but_what_is_sent() -> None:
    with Pair(4 * MIB, timeout=60) as pair:
        assert {process_of(role).pid for role in Role}.isdisjoint({os.getpid()})
        spans = pair.both(child.load, SPEC)
        assert spans[Role.SENDER] == spans[Role.RECEIVER] > 0
    assert not [p for p in multiprocessing.active_children() if p.name.startswith("bench-")]


def test_a_killed_process_is_reported() -> None:
    with Pair(4 * MIB, timeout=60) as pair:
        process = process_of(Role.RECEIVER)
        process.kill()
        process.join()
        with pytest.raises(WorkerFailed, match="the receiver process ended with exit status -9"):
            pair.call(Role.RECEIVER, child.load, SPEC)


def test_a_frozen_process_is_given_up_and_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pair_module, "FAREWELL", 0.1)
    with Pair(4 * MIB, timeout=60) as pair:
        pair._timeout = 0.2
        process = process_of(Role.SENDER)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGSTOP)
        with pytest.raises(WorkerFailed, match=r"the sender has not answered for 0\.2 s"):
            pair.call(Role.SENDER, child.load, SPEC)
    assert not process.is_alive()

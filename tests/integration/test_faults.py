# SPDX-License-Identifier: Apache-2.0
"""Processes that die, freeze and come back while every path is busy, and what the others notice.

Nothing asserts that this machine is fast: where a time is promised, the test allows `SLACK` on top
and reports what it measured.
"""

from __future__ import annotations

import dataclasses
import itertools
import random
import time
from collections.abc import Iterable

import pytest
from support.figures import Figure
from support.node import eventually
from support.processes import NodeProcess
from support.sites import WAYS, Site, Sites
from support.station import SHAPE, Report, Tally

PEER_TIMEOUT = 2.0
SLACK = 3.0
LOST = ("PeerLost", "PeerRestarted")
ROLES = ["sender", "receiver"]


def _three(sites: Sites, role: str) -> tuple[Site, Site, Site]:
    """A survivor, its peer of this role, and a third that is of both roles and uninvolved."""
    survivor, victim, bystander = map(sites.make, ("survivor", "victim", "bystander"))
    survivor.fetch_from(bystander, in_flight=2)
    bystander.fetch_from(survivor, in_flight=2)
    _connect(survivor, victim, role)
    return survivor, victim, bystander


def _connect(survivor: Site, victim: Site, role: str) -> None:
    # Slow enough that there is always something in the middle.
    fetcher, other = (survivor, victim) if role == "sender" else (victim, survivor)
    fetcher.fetch_from(other, in_flight=8, steps=24, pace=0.01)


def _with(report: Report, role: str, name: str = "victim") -> Tally:
    """What the survivor saw of its peer."""
    return (report.fetched if role == "sender" else report.sent).get(name, Tally())


def _until_good(survivor: Site, role: str, since: float, count: int = 5) -> None:
    """Waits until so many transfers with the victim have ended well on every path."""
    survivor.until(lambda report: len(_with(report, role).good_after(since)) >= count)


def _lost_after(reports: Iterable[Report], role: str, moment: float) -> float:
    """When the last transfer that ran at a moment was given up because the peer is gone."""
    failures = [failure for report in reports for failure in _with(report, role).hit_at(moment)]
    lost = [failure.ended for failure in failures if failure.error in LOST]
    assert lost, f"the fault hit none, or ended them otherwise: {failures}"
    return max(lost) - moment


def _nobody_else_noticed(survivor: Site, bystander: Site, since: float) -> float:
    """Checks the uninvolved pair; returns the longest time in which it got nothing done."""
    longest = 0.0
    for site, other in (survivor, "bystander"), (bystander, "survivor"):
        for way, report in site.reports().items():
            tally = report.fetched[other]
            assert not tally.failed, (way, tally.failed[0])
            good = tally.good_after(since - 1)
            assert good[-1] > since, f"{other} got nothing done over {way}"
            longest = max(longest, *(b - a for a, b in itertools.pairwise(good)))
    return longest


def _all_is_well(*sites: Site) -> str:
    """Every byte was right, and nothing is left; returns how much that was."""
    for site in sites:
        site.stop()
    transfers = 0
    for site in sites:
        for way, report in site.settle().items():
            assert not report.wrong, (site.name, way, report.wrong)
            assert report.late_writes == 0, (site.name, way)
            assert report.missing == 0, (site.name, way)
            assert report.still_open == {}, (site.name, way)
            transfers += sum(len(tally.good) for tally in report.fetched.values())
    return f"0 of {transfers}"


def _descriptors_fall_to(site: Site, count: int) -> int:
    """What is not needed any more is closed, if not at once."""
    site.until(lambda report: report.descriptors <= count)
    return site.reports()["tcp"].descriptors


@pytest.mark.parametrize("role", ROLES)
def test_killed_and_started_again(role: str, sites: Sites, figure: Figure) -> None:
    survivor, victim, bystander = _three(sites, role)
    chance = random.Random(role)
    declared, back, resident, descriptors, pauses = [], [], [], [], []
    started = 0.0
    for turn in range(4):
        _until_good(survivor, role, started, 20)
        report = survivor.reports()["tcp"]
        resident.append(report.resident)
        descriptors.append(
            report.descriptors if turn == 0 else _descriptors_fall_to(survivor, descriptors[0])
        )
        time.sleep(chance.uniform(0, 0.2))
        killed = victim.kill()
        started = victim.start()
        _connect(survivor, victim, role)
        _until_good(survivor, role, started)
        reports = survivor.reports()
        declared.append(_lost_after(reports.values(), role, killed))
        back += [
            _with(report, role).good_after(started)[0] - started for report in reports.values()
        ]
        pauses.append(_nobody_else_noticed(survivor, bystander, killed))
    wrong = _all_is_well(survivor, victim, bystander)
    assert max(declared) < PEER_TIMEOUT + SLACK
    assert max(back) < 1 + SLACK
    grown = (resident[-1] - resident[1]) / 2**20  # the first kill finds memory never used before
    assert grown < 8
    figure("wrong bytes reported good", wrong)
    figure("declared lost within 2 s", f"{max(declared):.2f} s")
    figure("first good transfer within 1 s of the peer listening", f"{max(back):.2f} s")
    figure(
        "others undisturbed: longest pause of a pair that runs all the time", f"{max(pauses):.2f} s"
    )
    figure("memory grown over two more kills", f"{grown:.1f} MiB")
    figure("descriptors grown over three kills", str(descriptors[-1] - descriptors[0]))


@pytest.mark.parametrize("role", ROLES)
def test_frozen_for_five_seconds_and_then_for_ever(role: str, sites: Sites, figure: Figure) -> None:
    survivor, victim, bystander = _three(sites, role)
    _until_good(survivor, role, 0.0, 20)
    frozen = victim.freeze()
    time.sleep(5)
    thawed = victim.thaw()
    _until_good(survivor, role, thawed)
    reports = survivor.reports()
    declared = [_lost_after(reports.values(), role, frozen)]
    back = [_with(report, role).good_after(thawed)[0] - thawed for report in reports.values()]
    pauses = [_nobody_else_noticed(survivor, bystander, frozen)]
    # The victim has been reading and writing old pages since it woke, if it could.
    for way, report in victim.reports().items():
        assert not report.wrong, (way, report.wrong)
        assert report.late_writes == 0, way

    frozen = victim.freeze()
    time.sleep(PEER_TIMEOUT)
    survivor.until(lambda report: bool(_with(report, role).hit_at(frozen)))
    pauses.append(_nobody_else_noticed(survivor, bystander, frozen))
    wrong = _all_is_well(survivor, bystander)
    declared.append(_lost_after(survivor.reports().values(), role, frozen))
    victim.kill()
    assert max(declared) < PEER_TIMEOUT + SLACK
    assert max(back) < 1 + SLACK
    figure("wrong bytes reported good", wrong)
    figure("declared lost within 2 s", f"{max(declared):.2f} s")
    figure("first good transfer within 1 s of the peer running again", f"{max(back):.2f} s")
    figure(
        "others undisturbed: longest pause of a pair that runs all the time", f"{max(pauses):.2f} s"
    )


def test_a_frozen_observer_declares_nobody_lost(sites: Sites, figure: Figure) -> None:
    observer = sites.make("observer", peer_timeout=PEER_TIMEOUT, patience=60.0)
    others = [sites.make(name, peer_timeout=60.0, patience=60.0) for name in ("left", "right")]
    for other in others:
        observer.fetch_from(other)
        other.fetch_from(observer)
    observer.until(lambda report: all(len(tally.good) > 9 for tally in report.fetched.values()))
    observer.freeze()
    time.sleep(5)
    thawed = observer.thaw()
    observer.until(
        lambda report: all(len(tally.good_after(thawed)) > 9 for tally in report.fetched.values())
    )
    wrong = _all_is_well(observer, *others)
    failures = [
        (site.name, way, tally.failed)
        for site in (observer, *others)
        for way, report in site.reports().items()
        for tally in (*report.fetched.values(), *report.sent.values())
        if tally.failed
    ]
    assert not failures
    figure("wrong bytes reported good", wrong)
    figure("healthy peers declared lost because this process stood still for 5 s", "0 of 6")


@pytest.mark.parametrize("path", WAYS)
def test_a_frozen_observer_that_hears_nothing_in_between(path: str) -> None:
    """Its peers have no reason to speak, so that only its own clock could deceive it."""
    with NodeProcess() as process, NodeProcess() as other:
        observer = process.node(paths=(path,), peer_timeout=PEER_TIMEOUT)
        sender = other.node(paths=(path,), peer_timeout=60.0)
        for node in (observer, sender):
            node.add_pool("kv", SHAPE)
        send = sender.send(b"request")
        recv = observer.recv(sender.address(), b"request", [("kv", range(9))], tokens=144)
        eventually(lambda: sender.matched(send))
        process.freeze()
        time.sleep(PEER_TIMEOUT + 1)
        process.thaw()
        time.sleep(1)
        assert not observer.done(recv)
        sender.fill("kv", b"request", range(20, 29))
        sender.append(send, "kv", range(20, 29))
        sender.mark_ready(send, 144)
        sender.finish(send)
        ended = observer.wait(recv)
        assert ended.ok, ended
        assert observer.difference("kv", (b"request", range(9), 0, range(144))) is None


def test_aborts_at_random_moments(sites: Sites, figure: Figure) -> None:
    shape = dataclasses.replace(SHAPE, page_count=2048)
    left, right = (sites.make(name, shape=shape, patience=0.3) for name in ("left", "right"))
    for site, other in (left, right), (right, left):
        site.fetch_from(other, in_flight=12, tokens=160, large=8192, aborts=0.8)
    wanted = 10_000
    here = there = 0
    resident, descriptors = [], []
    deadline = time.monotonic() + 240
    while here + there < wanted:
        assert time.monotonic() < deadline, f"{here} + {there} aborts so far"
        time.sleep(0.5)
        reports = [report for site in (left, right) for report in site.reports().values()]
        here = sum(tally.aborts for report in reports for tally in report.fetched.values())
        there = sum(tally.aborts for report in reports for tally in report.sent.values())
        resident.append(reports[0].resident)
        descriptors.append(reports[0].descriptors)
    wrong = _all_is_well(left, right)
    for site in (left, right):
        for way, report in site.reports().items():
            for tally in (*report.fetched.values(), *report.sent.values()):
                assert set(tally.errors()) <= {"TransferAborted", "TransferTimeout"}, (
                    way,
                    tally.errors(),
                )
    half = len(resident) // 2
    assert resident[-1] - resident[half] < 8 << 20
    assert descriptors[-1] == descriptors[half]
    figure("wrong bytes reported good", wrong)
    figure("aborts by the receiver, by the sender", f"{here}, {there}")
    figure("pages leaked, transfers left open", "0, 0")
    figure(
        "memory grown over the second half", f"{(resident[-1] - resident[half]) / 2**20:.1f} MiB"
    )
    figure("descriptors grown over the second half", str(descriptors[-1] - descriptors[half]))

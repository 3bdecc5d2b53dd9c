# SPDX-License-Identifier: Apache-2.0
"""Keeps engines busy for long, with aborts, restarts and freezes, and looks for what grows.

    tools/soak.py [--minutes 30] [--seed 1] [--out build/soak]

Three processes fetch from each other over every path, pages of random numbers at a time, and check
every byte. Some transfers are given up by one side; now and then the third process is killed and
started again on its ports, or frozen for a while. Memory, descriptors, threads and what is open in
the engines of the other two are sampled. It fails on a wrong byte, on a page that was touched after
it was handed back, on anything left at the end, and on a trend (see trend.py). The samples go to
soak.json, their plot to soak.png.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trend import Trend, trend

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
os.environ.setdefault("PYTHONSAFEPATH", "1")  # the installed package, not the folder of that name

from support.sites import Site, Sites  # noqa: E402 - the tests' own helpers

SHORTEST_MINUTES = 2.0
SAMPLE_SECONDS = 2.0
CALM_SECONDS = (4.0, 15.0)  # between two incidents
FROZEN_SECONDS = (0.5, 5.0)
LOAD = {"in_flight": 4, "tokens": 768, "steps": 6, "pace": 0.002, "aborts": 0.15}
# By how much each may grow. Memory: the allocator's own ups and downs, in MiB.
ALLOWANCES = {"memory (MiB)": 16.0, "descriptors": 4.0, "threads": 2.0, "open in the engines": 8.0}


@dataclass
class Samples:
    """What was seen, in the order in which it was."""

    minutes: list[float] = field(default_factory=list)
    values: dict[str, list[float]] = field(default_factory=dict)
    incidents: list[tuple[float, str]] = field(default_factory=list)
    totals: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def take(self, sites: list[Site], minute: float) -> None:
        """One look at all of them."""
        self.minutes.append(minute)
        for site in sites:
            open_now = 0
            for way, report in site.reports().items():
                open_now += sum(report.open.values())
                self._count(site.name, way, report)
            last = next(iter(site.reports().values()))
            values = (last.resident / 2**20, last.descriptors, last.threads, open_now)
            for quantity, value in zip(ALLOWANCES, values, strict=True):
                self.values.setdefault(f"{quantity}, {site.name}", []).append(value)
            for station in site.stations.values():
                station.forget()

    def _count(self, name: str, way: str, report: Any) -> None:
        if report.late_writes:
            self.wrong.append(f"{name} {way}: {report.late_writes} pages touched too late")
        self.wrong += [f"{name} {way}: {wrong}" for wrong in report.wrong]
        for tally in report.fetched.values():
            self.totals[f"good over {way}"] += len(tally.good)
            self.totals["bytes"] += tally.bytes
            self.totals["aborts by receivers"] += tally.aborts
            for error, count in tally.errors().items():
                self.totals[f"failed with {error}"] += count
        for tally in report.sent.values():
            self.totals["aborts by senders"] += tally.aborts

    def trends(self) -> list[Trend]:
        """Of every quantity."""
        return [
            trend(name, self.minutes, values, ALLOWANCES[name.rpartition(", ")[0]])
            for name, values in self.values.items()
        ]


def incidents(victim: Site, others: list[Site], chance: random.Random) -> Iterator[str]:
    """One after another, each done when it is yielded."""
    while True:
        if chance.random() < 0.5:
            victim.kill()
            victim.start()
            connect([victim, *others])
            yield "killed"
        else:
            victim.freeze()
            time.sleep(chance.uniform(*FROZEN_SECONDS))
            victim.thaw()
            yield "frozen"


def connect(sites: list[Site]) -> None:
    """Each fetches from each of the others."""
    for site in sites:
        for other in sites:
            if other is not site:
                site.fetch_from(other, **LOAD)


def soak(minutes: float, seed: int) -> tuple[Samples, list[str]]:
    """Runs it; returns the samples and what was left at the end that should not have been."""
    chance = random.Random(seed)  # nosec B311 - the same incidents in every run
    samples = Samples()
    with Sites() as made:
        watched = [made.make(name, patience=1.0) for name in ("first", "second")]
        victim = made.make("victim", patience=1.0)
        connect([*watched, victim])
        begun = time.monotonic()
        next_incident = begun + chance.uniform(*CALM_SECONDS)
        happening = incidents(victim, watched, chance)
        while (now := time.monotonic()) < begun + minutes * 60:
            if now >= next_incident:
                samples.incidents.append(((now - begun) / 60, next(happening)))
                next_incident = time.monotonic() + chance.uniform(*CALM_SECONDS)
            samples.take(watched, (now - begun) / 60)
            print(f"\r{(now - begun) / 60:6.1f} of {minutes:g} minutes", end="", flush=True)
            time.sleep(SAMPLE_SECONDS)
        print()
        return samples, leftovers([*watched, victim])


def leftovers(sites: list[Site]) -> list[str]:
    """What is still there when everything has had time to end."""
    for site in sites:
        site.stop()
    left = []
    for site in sites:
        for way, report in site.settle().items():
            if report.missing or report.still_open:
                left.append(f"{site.name} {way}: {report.missing} pages, {report.still_open}")
            if report.wrong or report.late_writes:
                left.append(f"{site.name} {way}: {report.wrong}, {report.late_writes} late writes")
    return left


def plot(samples: Samples, path: Path) -> None:
    """One panel for each quantity; grey lines are incidents."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(len(ALLOWANCES), 1, sharex=True, figsize=(8, 7))
    for panel, quantity in zip(panels, ALLOWANCES, strict=True):
        mine = {
            name: values for name, values in samples.values.items() if name.startswith(quantity)
        }
        for name, values in mine.items():
            panel.plot(samples.minutes, values, label=name.rpartition(", ")[2], linewidth=0.9)
        for minute, _ in samples.incidents:
            panel.axvline(minute, color="0.85", linewidth=0.5, zorder=0)
        panel.set_ylabel(quantity, fontsize=8)
        panel.set_ylim(0, 1.15 * max(map(max, mine.values())))
    panels[0].legend(fontsize=8, loc="lower right")
    grey = "; grey: a peer was killed or frozen" if samples.incidents else ""
    panels[-1].set_xlabel(f"minutes{grey}")
    figure.tight_layout()
    figure.savefig(path, dpi=80)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "soak")
    arguments = parser.parse_args()
    if arguments.minutes < SHORTEST_MINUTES:
        parser.error(f"less than {SHORTEST_MINUTES:g} minutes show no trend")
    arguments.out.mkdir(parents=True, exist_ok=True)
    samples, left = soak(arguments.minutes, arguments.seed)
    trends = samples.trends()
    kinds = Counter(kind for _, kind in samples.incidents)
    (arguments.out / "soak.json").write_text(
        json.dumps(
            {
                "minutes": arguments.minutes,
                "seed": arguments.seed,
                "totals": samples.totals,
                "incidents": samples.incidents,
                "trends": {each.name: each.growth for each in trends},
                "wrong": samples.wrong,
                "left": left,
                "samples": {"minute": samples.minutes, **samples.values},
            },
            indent=1,
        )
    )
    plot(samples, arguments.out / "soak.png")
    print(*(f"{name}: {count}" for name, count in sorted(samples.totals.items())), sep="\n")
    print(*(f"peer {kind}: {count} times" for kind, count in kinds.items()), sep="\n")
    print(*trends, sep="\n")
    problems = [*samples.wrong, *left, *(str(each) for each in trends if each.leaks)]
    print(*(f"FAILED: {problem}" for problem in problems), sep="\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())

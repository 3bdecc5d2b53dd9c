# SPDX-License-Identifier: Apache-2.0
"""A run from its options to its report."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from mooncake_connector.cli.bench import behaviour, copies, costs, latency, planning, report
from mooncake_connector.cli.bench.options import Options
from mooncake_connector.cli.bench.pair import Launch, Pair, launch_process
from mooncake_connector.cli.bench.requirements import judge
from mooncake_connector.cli.bench.results import Results, machine
from mooncake_connector.errors import ConfigError

NEEDS_PAIR = ("copies", "latency", "overload", "idle", "calls")


def run(options: Options, launch: Launch = launch_process) -> int:
    """Measures, prints tables to stdout and progress to stderr, and writes the JSON file.

    Returns:
        The exit status: 1 when `options.require` and a required figure is missed, else 0.

    Raises:
        MooncakeConnectorError: a transfer failed or moved wrong contents.
        ConfigError: the JSON file cannot be written; found out before anything is measured.
    """
    if options.json is not None:
        _check_writable(options)
    environment = machine()
    results = _measure(options, launch)
    verdicts = judge(results)
    report.show(Console(width=max(Console().width, report.WIDTH)), results, verdicts)
    if options.json is not None:
        options.json.write_text(report.as_json(results, verdicts, options, environment))
    return int(options.require and not all(verdict.met for verdict in verdicts))


def _measure(options: Options, launch: Launch) -> Results:
    steps = {
        "copies": copies.steps(options),
        "latency": latency.steps(options),
        "overload": behaviour.steps(options),
        "idle": behaviour.steps(options),
        "calls": costs.steps(options),
        "planning": 1,
        "startup": 1,
    }
    columns = (
        BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}")
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("start", total=sum(steps[part] for part in options.parts))
        started = False

        def advance(what: str) -> None:
            nonlocal started
            progress.update(task, advance=1 if started else 0, description=what)
            started = True

        results = _parts(options, launch, advance)
        progress.update(task, advance=1, description="done")
    return results


def _parts(options: Options, launch: Launch, advance: Callable[[str], None]) -> Results:
    results = Results()
    if any(part in NEEDS_PAIR for part in options.parts):
        with Pair(options.region, options.timeout, launch) as pair:
            if "copies" in options.parts:
                results.copies = copies.measure(pair, options, advance)
            if "latency" in options.parts:
                results.latency = latency.measure(pair, options, advance)
            if "overload" in options.parts:
                results.overload = behaviour.overload(pair, options, advance)
            if "idle" in options.parts:
                results.idle = behaviour.idle(pair, options, advance)
            if "calls" in options.parts:
                results.calls = costs.calls(pair, options, advance)
    if "planning" in options.parts:
        results.planning = planning.measure(advance)
    if "startup" in options.parts:
        results.startup = costs.startup(advance)
    return results


def _check_writable(options: Options) -> None:
    assert options.json is not None
    try:
        options.json.open("a").close()
    except OSError as error:
        raise ConfigError(f"--json {options.json}: {error.strerror}") from None

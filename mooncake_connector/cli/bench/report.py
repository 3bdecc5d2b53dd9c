# SPDX-License-Identifier: Apache-2.0
"""The tables on the terminal, and the JSON file."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from mooncake_connector.cli.bench.options import MIB, Options, size_text
from mooncake_connector.cli.bench.requirements import (
    SAME_HOST_BASELINE,
    TCP_BASELINES,
    Verdict,
    ratio,
)
from mooncake_connector.cli.bench.results import (
    CallResult,
    CopyResult,
    LatencyResult,
    OverloadResult,
    Results,
    as_plain_data,
)

FORMAT = 1  # raised when a reader of the JSON file would have to change
NONE = "–"  # noqa: RUF001  # an empty cell
MICRO = 1e6
WIDTH = 110  # columns that the widest table needs


def as_json(
    results: Results, verdicts: Sequence[Verdict], options: Options, machine: dict[str, Any]
) -> str:
    """The whole run. The layout is described in docs/benchmarks/README.md."""
    data = {
        "format": FORMAT,
        "machine": machine,
        "options": dataclasses.asdict(options),
        **as_plain_data(results),
        "requirements": [dataclasses.asdict(item) | {"met": item.met} for item in verdicts],
    }
    return json.dumps(data, indent=1, default=str) + "\n"


def show(console: Console, results: Results, verdicts: Sequence[Verdict]) -> None:
    """Prints one table for each part that was measured, the verdicts last."""
    if results.copies:
        console.print(_copies(results.copies))
        for name, reason in _unavailable(results.copies).items():
            console.print(f"[yellow]{name} was not measured:[/] {reason}", highlight=False)
    if results.latency:
        console.print(_latency(results.latency))
    if results.overload:
        console.print(_overload(results.overload))
        console.print(_memory(results.overload))
    if results.calls:
        console.print(_calls(results.calls))
    small = _small(results)
    if small.row_count:
        console.print(small)
    if verdicts:
        console.print(_verdicts(verdicts))


def _table(title: str, *columns: str, left: int = 1) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index < left else "right", no_wrap=True)
    return table


def _copies(copies: Iterable[CopyResult]) -> Table:
    table = _table(
        "Paged copies: medians; x = over memcpy / over the better raw TCP stream of the same run",
        "page", "pattern", "method", "spans", "GB/s", "x memcpy", "x tcp", "CPU-s/GB",
        "x memcpy", "x tcp", left=3,
    )  # fmt: skip
    for result in copies:
        for index, (name, figures) in enumerate(result.methods.items()):
            host = ratio(result, name, SAME_HOST_BASELINE)
            tcp = ratio(result, name, TCP_BASELINES)
            table.add_row(
                size_text(result.block) if index == 0 else "",
                result.pattern if index == 0 else "",
                name,
                f"{result.engine_spans.get(name, result.spans):,}",
                f"{figures.speed:.3g}",
                f"{host.speed:.2f}" if host else NONE,
                f"{tcp.speed:.2f}" if tcp else NONE,
                f"{figures.cpu_cost:.3g}",
                f"{host.cpu_cost:.2f}" if host else NONE,
                f"{tcp.cpu_cost:.2f}" if tcp else NONE,
            )
        table.add_section()
    return table


def _unavailable(copies: Iterable[CopyResult]) -> dict[str, str]:
    return {name: reason for result in copies for name, reason in result.unavailable.items()}


def _latency(latency: Sequence[LatencyResult]) -> Table:
    blocks = sorted({item.block for item in latency})
    table = _table(
        "Latency of one page, µs: p50 / p99", "method", *(size_text(block) for block in blocks)
    )
    cells = {
        (item.method, item.block): f"{item.p50 * MICRO:.1f} / {item.p99 * MICRO:.1f}"
        for item in latency
    }
    for method in dict.fromkeys(item.method for item in latency):
        table.add_row(method, *(cells.get((method, block), NONE) for block in blocks))
    return table


def _overload(overload: Sequence[OverloadResult]) -> Table:
    table = _table(
        "Overload: all requests outstanding at once, repeated",
        "method", "requests", "spans each", "seconds each time", "failed",
    )  # fmt: skip
    for item in overload:
        table.add_row(
            item.method,
            str(item.requests),
            f"{item.spans:,}",
            f"{min(item.seconds):.3f}..{max(item.seconds):.3f} ({len(item.seconds)})",
            str(item.failed),
        )
        if item.first_error is not None:
            table.add_row(f"[red]{item.first_error}")
    return table


def _memory(overload: Sequence[OverloadResult]) -> Table:
    rounds = max(len(item.seconds) for item in overload)
    table = _table(
        "Resident memory under overload, MiB: before, and how much more after each time",
        "method",
        "side",
        "before",
        *(str(number) for number in range(1, rounds + 1)),
        left=2,
    )
    for item in overload:
        for side, sizes in (("sender", item.sender_resident), ("receiver", item.receiver_resident)):
            before, *after = sizes
            more = (f"{(size - before) / MIB:+.1f}" for size in after)
            table.add_row(item.method, side, f"{before / MIB:.1f}", *more)
    return table


def _calls(calls: Sequence[CallResult]) -> Table:
    counts = sorted({item.pages for item in calls})
    table = _table(
        "Calls from Python, µs: p50 / p99",
        "call",
        "side",
        *(f"{n:,} pages" for n in counts),
        left=2,
    )
    cells = {
        (item.call, item.side, item.pages): f"{item.p50 * MICRO:.1f} / {item.p99 * MICRO:.1f}"
        for item in calls
    }
    for call, side in dict.fromkeys((item.call, item.side) for item in calls):
        table.add_row(call, side, *(cells[call, side, count] for count in counts))
    return table


def _small(results: Results) -> Table:
    table = _table("Costs", "what", "", left=1)
    for rest in results.idle:
        table.add_row(
            f"{rest.method}: CPU of an idle pair, sender / receiver",
            f"{rest.sender_cpu:.4f} / {rest.receiver_cpu:.4f}",
        )
    for plan in results.planning:
        each = f"{plan.seconds / plan.spans * 1e9:.2f} ns for each of {plan.spans:,} spans"
        total = f"{plan.seconds * MICRO:,.1f} µs"
        table.add_row(f"planning {plan.request}", total if plan.contiguous else each)
    if results.startup is not None:
        table.add_row("import, beyond numpy", f"{results.startup.median:.3f} s")
        table.add_row("threads that the import starts", str(results.startup.threads))
    return table


def _verdicts(verdicts: Sequence[Verdict]) -> Table:
    met = sum(verdict.met for verdict in verdicts)
    table = _table(
        f"Required figures: {met} of {len(verdicts)} met", "figure", "measured", "required", ""
    )
    for item in verdicts:
        text = _FORMATS[item.unit]
        table.add_row(
            item.figure,
            text(item.measured),
            f"{'at most' if item.at_most else 'at least'} {text(item.limit)}",
            "[green]met[/]" if item.met else "[bold red]MISSED[/]",
        )
    return table


def _seconds(value: float) -> str:
    for scale, unit in ((1.0, "s"), (1e3, "ms"), (MICRO, "µs")):
        if value * scale >= 1:
            return f"{value * scale:.3g} {unit}"
    return f"{value * 1e9:.3g} ns"


_FORMATS: dict[str, Callable[[float], str]] = {
    "x": lambda value: f"{value:.2f}x",
    "s": _seconds,
    "bytes": lambda value: f"{value / MIB:.2f} MiB",
    "": lambda value: f"{value:.3g}",
}

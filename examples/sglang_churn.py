# SPDX-License-Identifier: Apache-2.0
"""The same load twice on SGLang prefill/decode servers, whose decode pool it fragments.

    python sglang_churn.py [--backends mooncake_connector,mooncake_tcp] [--page-sizes 1,16,64]
                           [--requests 500] [--json FILE] [--plot FILE.png]

For each backend and page size a prefill and a decode server and sglang-router are started with a
tiny model, and the load is run twice. With SGLang's own backends the second run is slower than the
first at page size 1: the pool has become a comb. Transfer seconds, bytes and speed are those of the
prefill server's ``sglang:kv_transfer_*``; processor time is that of both servers, all that they do.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import re
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table
from servers import Server, Servers
from sglang_servers import BACKEND, SGLangCluster

PROMPT_TOKENS = 400
ANSWER_TOKENS = 120
SPREAD = 0.5  # lengths are uniform between this part of the mean and what mirrors it
CONCURRENT = 16
VOCABULARY = range(3, 1024)
START_TIMEOUT = 900.0
REQUEST_TIMEOUT = 600.0
PLUGIN = Path(__file__).parent / "churn_plugin"
SPANS = re.compile(r"bytes in (\d+) spans")
METRIC = re.compile(r"^sglang:kv_transfer_(\w+?)_(sum|count)(?:\{.*\})? (\S+)$", re.MULTILINE)


@dataclass(frozen=True)
class Load:
    """How much is asked; each run asks the same lengths of other prompts."""

    requests: int
    runs: int


@dataclass
class Run:
    """What one run of the load took."""

    backend: str
    page_size: int
    run: int
    requests: int
    failed: int
    seconds: float
    tokens_per_run: float
    spans_per_request: float | None
    mib_per_request: float
    transfer_milliseconds: float
    transfer_gigabytes_per_second: float
    cpu_seconds_per_gigabyte: float
    ttft_mean: float
    ttft_p99: float


class Observed:
    """The servers of one backend and page size, and what they tell of themselves."""

    def __init__(self, prefill: Server, decode: Server, pages: Path) -> None:
        self._servers = (prefill, decode)
        self._pages = pages
        self._read = self._logged = 0

    def metrics(self) -> dict[str, float]:
        """Sums and counts of the prefill server's transfer metrics."""
        url = f"{self._servers[0].url}/metrics"
        # The URL is that of a server this script started.
        with urllib.request.urlopen(url, timeout=60) as answer:  # nosec B310
            text = answer.read().decode()
        return {f"{name}_{kind}": float(value) for name, kind, value in METRIC.findall(text)}

    def processor_seconds(self) -> float:
        """Of both servers' processes."""
        total = 0.0
        for server in self._servers:
            root = psutil.Process(server.process.pid)
            for process in (root, *root.children(recursive=True)):
                times = process.cpu_times()
                total += times.user + times.system
        return total

    def new_pages(self) -> tuple[int, int]:
        """Tokens and runs of the requests since the last call."""
        if not self._pages.exists():
            return 0, 0
        lines = self._pages.read_text().splitlines()
        fresh, self._read = lines[self._read :], len(lines)
        pairs = [tuple(map(int, line.split())) for line in fresh]
        return sum(pair[0] for pair in pairs), sum(pair[1] for pair in pairs)

    def new_spans(self) -> float | None:
        """Mean spans of the transfers since the last call; only our decode server logs them."""
        text = self._servers[1].log.read_text(errors="replace")
        spans = [
            int(number) for number in re.findall(r"bytes in (\d+) spans", text[self._logged :])
        ]
        self._logged = len(text)
        return float(np.mean(spans)) if spans else None


def ask(url: str, prompt: Sequence[int], tokens: int) -> float | None:
    """Seconds to the first token of a streamed answer; None if it failed."""
    body = {
        "input_ids": list(prompt),
        "stream": True,
        "sampling_params": {"temperature": 0, "max_new_tokens": tokens, "ignore_eos": True},
    }
    began = time.monotonic()
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=REQUEST_TIMEOUT)
    try:
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/generate", json.dumps(body), headers)
        answer = connection.getresponse()
        first = answer.readline()
        seconds = time.monotonic() - began
        rest = answer.read()
    except OSError:
        return None
    finally:
        connection.close()
    succeeded = answer.status == http.client.OK and b"[DONE]" in rest and b'"error"' not in first
    return seconds if succeeded else None


def one_run(url: str, observed: Observed, setting: tuple[str, int], run: int, load: Load) -> Run:
    """Runs the load once."""
    # The same load in every run.
    lengths = random.Random(1)  # nosec B311
    words = random.Random(1000 * setting[1] + run)  # nosec B311

    def length(mean: int) -> int:
        return lengths.randint(int(mean * SPREAD), int(mean * (2 - SPREAD)))

    work = [
        (words.choices(VOCABULARY, k=length(PROMPT_TOKENS)), length(ANSWER_TOKENS))
        for _ in range(load.requests)
    ]
    before, processor, began = observed.metrics(), observed.processor_seconds(), time.monotonic()
    with ThreadPoolExecutor(CONCURRENT) as threads:
        answers = list(threads.map(lambda one: ask(url, *one), work))
    seconds = time.monotonic() - began
    processor = observed.processor_seconds() - processor
    after = observed.metrics()
    gained = {name: value - before.get(name, 0.0) for name, value in after.items()}
    transfers = max(gained.get("latency_ms_count", 0.0), 1.0)
    mib = gained.get("total_mb_sum", 0.0)
    gigabytes = max(mib * 2**20 / 1e9, 1e-9)
    first_tokens = [answer for answer in answers if answer is not None] or [float("nan")]
    tokens, runs = observed.new_pages()
    return Run(
        backend=setting[0],
        page_size=setting[1],
        run=run,
        requests=load.requests,
        failed=sum(answer is None for answer in answers),
        seconds=seconds,
        tokens_per_run=tokens / max(runs, 1),
        spans_per_request=observed.new_spans(),
        mib_per_request=mib / transfers,
        transfer_milliseconds=gained.get("latency_ms_sum", 0.0) / transfers,
        transfer_gigabytes_per_second=gained.get("speed_gb_s_sum", 0.0) / transfers,
        cpu_seconds_per_gigabyte=processor / gigabytes,
        ttft_mean=float(np.mean(first_tokens)),
        ttft_p99=float(np.percentile(first_tokens, 99)),
    )


def measure(
    console: Console, folder: Path, model: Path, setting: tuple[str, int], load: Load
) -> list[Run]:
    """Starts servers of one backend and page size, and runs the load on them."""
    backend, page_size = setting
    name = f"{backend}-{page_size}"
    pages = folder / f"{name}.pages"
    environment: Mapping[str, str] = {
        "PYTHONPATH": str(PLUGIN),
        "CHURN_PAGES_FILE": str(pages),
        **({} if backend == BACKEND else {"CHURN_MOONCAKE_WITHOUT_GPU": "1"}),
        **({"MOONCAKE_CONNECTOR_LOG_LEVEL": "debug"} if backend == BACKEND else {}),
    }
    with Servers(folder / name) as servers, console.status(f"{name}: starting"):
        cluster = SGLangCluster(
            servers,
            model,
            page_size=page_size,
            backend=backend,
            options=("--enable-metrics",),
            environment=environment,
        )
        prefill, decode = cluster.prefill(), cluster.decode()
        servers.wait_ready(START_TIMEOUT, lambda _: None)
        router = cluster.router(prefill, decode)
        servers.wait_ready(START_TIMEOUT, lambda _: None)
        ask(router.url, [5] * 20, 4)  # the first request meets cold code
        observed = Observed(prefill, decode, pages)
        observed.new_pages(), observed.new_spans()
        results = []
        for run in range(1, load.runs + 1):
            results.append(one_run(router.url, observed, setting, run, load))
            console.print(f"{name}, run {run}: {results[-1].seconds:.0f} s")
        return results


def show(console: Console, results: Sequence[Run]) -> None:
    """Prints all runs."""
    table = Table(title="the same load twice", title_justify="left")
    for heading in (
        *("backend", "page size", "run", "failed", "tokens/run", "spans/req", "MiB/req"),
        *("ms/req", "GB/s", "CPU-s/GB", "TTFT mean", "P99"),
    ):
        table.add_column(heading, justify="right")
    for one in results:
        spans = "-" if one.spans_per_request is None else f"{one.spans_per_request:,.0f}"
        table.add_row(
            *(one.backend, str(one.page_size), str(one.run), f"{one.failed}/{one.requests}"),
            *(f"{one.tokens_per_run:,.1f}", spans, f"{one.mib_per_request:.2f}"),
            *(f"{one.transfer_milliseconds:,.1f}", f"{one.transfer_gigabytes_per_second:.3f}"),
            *(f"{one.cpu_seconds_per_gigabyte:,.0f}", f"{one.ttft_mean:.2f} s"),
            f"{one.ttft_p99:.2f} s",
        )
    console.print(table)


def plot(results: Sequence[Run], file: Path) -> None:
    """Draws transfer speed over page size, one line for each backend and run."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5))
    for backend in dict.fromkeys(one.backend for one in results):
        for run in sorted({one.run for one in results}):
            chosen = [one for one in results if (one.backend, one.run) == (backend, run)]
            axes.plot(
                [str(one.page_size) for one in chosen],
                [one.transfer_gigabytes_per_second for one in chosen],
                marker="o",
                linestyle="-" if run == 1 else "--",
                label=f"{backend}, run {run}",
            )
    axes.set(xlabel="page size (tokens)", ylabel="mean transfer speed (GB/s)", yscale="log")
    axes.legend()
    axes.grid(True, alpha=0.3)
    figure.tight_layout()
    figure.savefig(file, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backends", default=f"{BACKEND},mooncake_tcp", help="separated by commas")
    parser.add_argument("--page-sizes", default="1,16,64", help="separated by commas")
    parser.add_argument("--requests", type=int, default=500, help="of each run")
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="for the model and the logs")
    parser.add_argument("--json", type=Path, help="writes the figures there")
    parser.add_argument("--plot", type=Path, help="draws them there (PNG)")
    options = parser.parse_args()
    # Where there is no terminal, nothing says how wide the table may be.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 150)
    folder = (options.folder or Path(tempfile.mkdtemp(prefix="churn-"))).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    from demonstration import make_model

    make_model(console, folder / "model")
    load = Load(options.requests, options.runs)
    results: list[Run] = []
    for page_size in map(int, options.page_sizes.split(",")):
        for backend in options.backends.split(","):
            setting = (backend, page_size)
            results += measure(console, folder, folder / "model", setting, load)
    show(console, results)
    if options.json:
        options.json.write_text(json.dumps([asdict(one) for one in results], indent=1) + "\n")
    if options.plot:
        plot(results, options.plot)


if __name__ == "__main__":
    main()

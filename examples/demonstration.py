# SPDX-License-Identifier: Apache-2.0
"""What the demonstrations have in common: prompts through a pair of servers, answers compared."""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from servers import MODEL_NAME, Server, ServerFailed, Servers
from tokenizers import Tokenizer
from transfer_log import Transfer, TransferLog

PROMPT_TOKENS = (5, 17, 33, 100, 257, 512, 777, 1100, 1500)
ANSWER_TOKENS = 24
REQUEST_TIMEOUT = 120.0
ANSWER_WIDTH = 28
TEXT = (
    "pages move from the prefill server to the decode server while the prompt is still being read "
    "and each request keeps its own key and value rows until the last token has been written"
)

Demonstration = Callable[[Console, Path, argparse.Namespace], list[str]]


@dataclass(frozen=True)
class Answer:
    """What a server made of a prompt; `error` says why there is no text."""

    tokens: int = 0
    text: str = ""
    error: str | None = None


@dataclass(frozen=True)
class Comparison:
    """One prompt through the pair, beside the plain server."""

    plain: Answer
    pair: Answer
    transfer: Transfer | None

    @property
    def problem(self) -> str | None:
        """Why this does not count as a success."""
        if self.plain.error:
            return f"the plain server failed: {self.plain.error}"
        if self.pair.error:
            return f"the request failed: {self.pair.error}"
        if self.pair.text != self.plain.text:
            return f"the answer differs: {self.pair.text!r} instead of {self.plain.text!r}"
        if self.transfer is None:
            return "the decode server logged no transfer: its KV did not come through the connector"
        return None


def make_prompts(model: Path, opening: str) -> list[str]:
    """Prompts of about PROMPT_TOKENS tokens; another `opening` gives others, so no cache hits."""
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    vocabulary = TEXT.split()
    prompts = []
    for count in PROMPT_TOKENS:
        # The same prompts in every run.
        words = [opening, *random.Random(count).choices(vocabulary, k=count)]  # nosec B311
        ids = tokenizer.encode(" ".join(words)).ids[:count]
        prompts.append(tokenizer.decode(ids))
    return prompts


def complete(server: Server, prompt: str) -> Answer:
    """Asks a server, router or proxy for a greedy completion."""
    body = {
        "model": MODEL_NAME,
        "prompt": prompt,
        "max_tokens": ANSWER_TOKENS,
        "temperature": 0,
        "ignore_eos": True,
    }
    request = urllib.request.Request(
        f"{server.url}/v1/completions",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    try:
        # The URL is that of a server this script started.
        with urllib.request.urlopen(request, timeout=REQUEST_TIMEOUT) as response:  # nosec B310
            reply = json.load(response)
        return Answer(reply["usage"]["prompt_tokens"], reply["choices"][0]["text"])
    except urllib.error.HTTPError as error:
        return Answer(error=f"HTTP {error.code}: {error.read().decode(errors='replace')[:300]}")
    except (OSError, ValueError, KeyError) as error:
        return Answer(error=f"{type(error).__name__}: {error}")


def wait_ready(console: Console, servers: Servers, timeout: float, told: set[str]) -> None:
    """Waits for all servers, telling which are still starting; `told` are known to answer."""
    began = time.monotonic()
    with console.status("starting") as status:

        def progress(all_servers: Sequence[Server]) -> None:
            for server in all_servers:
                if server.ready_after is not None and server.name not in told:
                    told.add(server.name)
                    console.print(f"  {server.name} answers after {server.ready_after:.0f} s")
            starting = [server.name for server in all_servers if server.ready_after is None]
            seconds = time.monotonic() - began
            status.update(f"starting {', '.join(starting)} ({seconds:.0f} s)")

        servers.wait_ready(timeout, progress)


def run_prompts(
    console: Console, plain: Server, front: Server, prompts: Sequence[str], log: TransferLog
) -> list[Comparison]:
    """Sends every prompt to both; prints and returns how they compare."""
    table = Table(title=f"through {front.name}", title_justify="left")
    for heading in ("tokens", "KiB", "spans", "path", "transfer"):
        table.add_column(heading, justify="right")
    for heading in ("plain server", "prefill + decode", "equal"):
        table.add_column(heading, no_wrap=True)
    comparisons = []
    with console.status(f"sending {len(prompts)} prompts through {front.name}"):
        for prompt in prompts:
            expected = complete(plain, prompt)
            log.forget()
            answer = complete(front, prompt)
            comparison = Comparison(expected, answer, log.latest())
            comparisons.append(comparison)
            table.add_row(*describe(comparison))
    console.print(table)
    return comparisons


def describe(comparison: Comparison) -> list[str]:
    """The cells of a comparison's row."""
    transfer = comparison.transfer
    figures = ["-"] * 4
    if transfer is not None:
        figures = [
            f"{transfer.bytes / 1024:,.0f}",
            f"{transfer.spans:,}",
            transfer.path,
            f"{transfer.milliseconds:.1f} ms",
        ]
    answers = [
        repr(answer.error or answer.text)[:ANSWER_WIDTH].replace("[", r"\[")
        for answer in (comparison.plain, comparison.pair)
    ]
    equal = comparison.plain.error is None and comparison.plain.text == comparison.pair.text
    verdict = "[green]yes[/]" if equal else "[red]NO[/]"
    return [f"{comparison.plain.tokens:,}", *figures, *answers, verdict]


def make_model(console: Console, model: Path) -> None:
    """Writes the tiny model."""
    console.print(f"making a tiny model in {model}")
    maker = Path(__file__).with_name("make_tiny_model.py")
    subprocess.run([sys.executable, str(maker), str(model)], check=True, stdin=subprocess.DEVNULL)


def report(console: Console, problem: str) -> None:
    """Prints what went wrong; text from a server's log is not markup."""
    console.print("[red]failed:[/]", end=" ")
    console.print(problem, markup=False, soft_wrap=True)


def run(
    demonstrate: Demonstration,
    description: str,
    folder: Path,
    answers: int,
    add_options: Callable[[argparse.ArgumentParser], None] = lambda _: None,
) -> int:
    """A demonstration as a program.

    Args:
        demonstrate: takes the console, a folder and the options, of which `startup_timeout` is the
            seconds that starting may take; returns what went wrong.
        description: what the program does.
        folder: for the model and the logs, unless the command line names another.
        answers: how many are compared.
        add_options: adds this program's own to its parser.

    Returns:
        The exit status.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--folder", type=Path, default=folder, help="for the model and the logs")
    parser.add_argument(
        "--startup-timeout", type=float, default=600.0, help="seconds for all servers to start"
    )
    add_options(parser)
    arguments = parser.parse_args()
    # Also where a shell started this in the background, and so told it to ignore Ctrl-C.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    # Where there is no terminal, nothing says how wide the table may be.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 150)
    try:
        arguments.folder.mkdir(parents=True, exist_ok=True)
        problems = demonstrate(console, arguments.folder.resolve(), arguments)
    except (ServerFailed, subprocess.CalledProcessError, OSError) as failure:
        problems = [str(failure)]
    except KeyboardInterrupt:
        console.print("interrupted; all servers have been stopped")
        return 130
    for problem in problems:
        report(console, problem)
    if problems:
        logs = arguments.folder / "logs"
        console.print(f"the servers' logs are in {logs}", markup=False, soft_wrap=True)
        return 1
    console.print(f"[green]all {answers} answers equal the plain server's[/]")
    return 0

# SPDX-License-Identifier: Apache-2.0
"""Shows the package at work: two vLLM servers, KV moved between them, answers compared.

Makes a tiny model, starts a prefill, a decode and a plain server (--prefill-servers and
--decode-servers ask for more), puts vllm-router and then pd_proxy.py in front, and sends prompts
through both. Ends with status 1 when an answer differs from the plain server's, when a request
fails, or when its KV was not transferred.
"""

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
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from servers import Server, ServerFailed, Servers
from tokenizers import Tokenizer
from transfer_log import Transfer, TransferLog
from vllm_servers import MODEL_NAME, Cluster

PROMPT_TOKENS = (5, 17, 33, 100, 257, 512, 777, 1100, 1500)
ANSWER_TOKENS = 24
REQUEST_TIMEOUT = 120.0
ANSWER_WIDTH = 28
TEXT = (
    "pages move from the prefill server to the decode server while the prompt is still being read "
    "and each request keeps its own key and value rows until the last token has been written"
)


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
        words = [opening, *random.Random(count).choices(vocabulary, k=count)]
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
        with urllib.request.urlopen(request, timeout=REQUEST_TIMEOUT) as response:
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


def demonstrate(console: Console, folder: Path, arguments: argparse.Namespace) -> list[str]:
    """Runs the whole show; returns what went wrong."""
    startup_timeout: float = arguments.startup_timeout
    model = folder / "model"
    console.print(f"making a tiny model in {model}")
    maker = Path(__file__).with_name("make_tiny_model.py")
    subprocess.run([sys.executable, str(maker), str(model)], check=True, stdin=subprocess.DEVNULL)

    with Servers(folder / "logs") as servers:
        cluster = Cluster(servers, model, {"log_level": "debug"})
        prefill = [cluster.prefill(name) for name in names("prefill", arguments.prefill_servers)]
        decode = [cluster.decode(name) for name in names("decode", arguments.decode_servers)]
        plain = cluster.plain()
        count = len(prefill) + len(decode) + 1
        console.print(f"starting {count} vLLM servers, logs in {folder / 'logs'}")
        told: set[str] = set()
        wait_ready(console, servers, startup_timeout, told)
        log = TransferLog(server.log for server in decode)
        problems = []
        for start in (cluster.router, cluster.proxy):
            front = start(prefill, decode)
            wait_ready(console, servers, startup_timeout, told)
            prompts = make_prompts(model, opening=front.name)
            for comparison in run_prompts(console, plain, front, prompts, log):
                if comparison.problem:
                    tokens = comparison.plain.tokens
                    problems.append(f"{front.name}, {tokens} tokens: {comparison.problem}")
        servers.check()
    return problems


def names(kind: str, count: int) -> list[str]:
    """What servers of one kind are called."""
    return [kind] if count == 1 else [f"{kind}-{number}" for number in range(1, count + 1)]


def report(console: Console, problem: str) -> None:
    """Prints what went wrong; text from a server's log is not markup."""
    console.print("[red]failed:[/]", end=" ")
    console.print(problem, markup=False, soft_wrap=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--folder", type=Path, default=Path("logs/demo"), help="for the model and the logs"
    )
    parser.add_argument(
        "--startup-timeout", type=float, default=600.0, help="seconds for all servers to start"
    )
    for kind in ("prefill", "decode"):
        parser.add_argument(
            f"--{kind}-servers", type=int, choices=range(1, 5), default=1, metavar="N",
            help=f"{kind} servers, which take turns (default: 1)",
        )  # fmt: skip
    arguments = parser.parse_args()
    # Also where a shell started this in the background, and so told it to ignore Ctrl-C.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    # Where there is no terminal, nothing says how wide the table may be.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 150)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    try:
        problems = demonstrate(console, arguments.folder.resolve(), arguments)
    except (ServerFailed, subprocess.CalledProcessError) as failure:
        report(console, str(failure))
        return 1
    except KeyboardInterrupt:
        console.print("interrupted; all servers have been stopped")
        return 130
    for problem in problems:
        report(console, problem)
    if problems:
        console.print(f"the servers' logs are in {arguments.folder / 'logs'}")
        return 1
    total = 2 * len(PROMPT_TOKENS)
    console.print(f"[green]all {total} answers equal the plain server's[/]")
    return 0


if __name__ == "__main__":
    sys.exit(main())

# SPDX-License-Identifier: Apache-2.0
"""Shows the package at work: two vLLM servers, KV moved between them, answers compared.

Makes a tiny model, starts a prefill, a decode and a plain server (--prefill-servers and
--decode-servers ask for more), puts vllm-router and then pd_proxy.py in front, and sends prompts
through both. Ends with status 1 when an answer differs from the plain server's, when a request
fails, or when its KV was not transferred.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from demonstration import PROMPT_TOKENS, make_model, make_prompts, run, run_prompts, wait_ready
from rich.console import Console
from servers import Servers
from transfer_log import TransferLog
from vllm_servers import Cluster


def demonstrate(console: Console, folder: Path, arguments: argparse.Namespace) -> list[str]:
    """Runs the whole show; returns what went wrong."""
    startup_timeout: float = arguments.startup_timeout
    model = folder / "model"
    make_model(console, model)

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


def add_options(parser: argparse.ArgumentParser) -> None:
    """How many servers there are."""
    for kind in ("prefill", "decode"):
        parser.add_argument(
            f"--{kind}-servers", type=int, choices=range(1, 5), default=1, metavar="N",
            help=f"{kind} servers, which take turns (default: 1)",
        )  # fmt: skip


if __name__ == "__main__":
    description = __doc__.splitlines()[0]
    answers = 2 * len(PROMPT_TOKENS)
    sys.exit(run(demonstrate, description, Path("logs/demo"), answers, add_options))

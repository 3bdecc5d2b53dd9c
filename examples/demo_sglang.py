# SPDX-License-Identifier: Apache-2.0
"""Shows the package at work: two SGLang servers, KV moved between them, answers compared.

Makes a tiny model, starts a prefill, a decode and a plain server, puts sglang-router in front of
the pair, and sends prompts through it. Ends with status 1 when an answer differs from the plain
server's, when a request fails, or when its KV was not transferred.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from demonstration import PROMPT_TOKENS, make_model, make_prompts, run, run_prompts, wait_ready
from rich.console import Console
from servers import Servers
from sglang_servers import SGLangCluster
from transfer_log import TransferLog


def demonstrate(console: Console, folder: Path, arguments: argparse.Namespace) -> list[str]:
    """Runs the whole show; returns what went wrong."""
    startup_timeout: float = arguments.startup_timeout
    model = folder / "model"
    make_model(console, model)
    with Servers(folder / "logs") as servers:
        cluster = SGLangCluster(
            servers, model, environment={"MOONCAKE_CONNECTOR_LOG_LEVEL": "debug"}
        )
        console.print(f"starting three SGLang servers, logs in {folder / 'logs'}")
        prefill, decode, plain = cluster.prefill(), cluster.decode(), cluster.plain()
        told: set[str] = set()
        wait_ready(console, servers, startup_timeout, told)
        router = cluster.router(prefill, decode)
        wait_ready(console, servers, startup_timeout, told)
        prompts = make_prompts(model, opening=router.name)
        log = TransferLog([decode.log])
        comparisons = run_prompts(console, plain, router, prompts, log)
        servers.check()
    return [
        f"{router.name}, {comparison.plain.tokens} tokens: {comparison.problem}"
        for comparison in comparisons
        if comparison.problem
    ]


if __name__ == "__main__":
    description = __doc__.splitlines()[0]
    sys.exit(run(demonstrate, description, Path("logs/demo-sglang"), len(PROMPT_TOKENS)))

# SPDX-License-Identifier: Apache-2.0
"""Shows the package at work: two vLLM servers, KV moved between them, answers compared.

Makes a tiny model, starts a prefill, a decode and a plain server, puts vllm-router and then
pd_proxy.py in front of the pair, and sends prompts through both. Ends with status 1 when an answer
differs from the plain server's, when a request fails, or when its KV was not transferred.
"""

from __future__ import annotations

import sys
from pathlib import Path

from demonstration import PROMPT_TOKENS, make_model, make_prompts, run, run_prompts, wait_ready
from rich.console import Console
from servers import Servers
from transfer_log import TransferLog
from vllm_servers import Cluster


def demonstrate(console: Console, folder: Path, startup_timeout: float) -> list[str]:
    """Runs the whole show; returns what went wrong."""
    model = folder / "model"
    make_model(console, model)

    with Servers(folder / "logs") as servers:
        cluster = Cluster(servers, model, {"log_level": "debug"})
        console.print(f"starting three vLLM servers, logs in {folder / 'logs'}")
        prefill, decode, plain = cluster.prefill(), cluster.decode(), cluster.plain()
        told: set[str] = set()
        wait_ready(console, servers, startup_timeout, told)
        log = TransferLog(decode.log)
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


if __name__ == "__main__":
    description = __doc__.splitlines()[0]
    sys.exit(run(demonstrate, description, Path("logs/demo"), 2 * len(PROMPT_TOKENS)))

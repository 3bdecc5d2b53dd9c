# SPDX-License-Identifier: Apache-2.0
"""A demonstration with stub servers, for test_demo.py; its argument says how one of them behaves.

`missing` is a server whose program does not exist.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from demonstration import run, run_prompts, wait_ready
from rich.console import Console
from servers import Server, Servers, free_port
from transfer_log import TransferLog

STUB = Path(__file__).with_name("stub_server.py")


def demonstrate(console: Console, folder: Path, arguments: argparse.Namespace) -> list[str]:
    with Servers(folder / "logs") as servers:
        plain = start(servers, "plain", "right")
        pair = start(servers, "pair", arguments.behaviour)
        wait_ready(console, servers, arguments.startup_timeout, set())
        comparisons = run_prompts(console, plain, pair, ["a prompt"], TransferLog([pair.log]))
        servers.check()
    return [comparison.problem for comparison in comparisons if comparison.problem]


def start(servers: Servers, name: str, behaviour: str) -> Server:
    port = str(free_port())
    program = "no-such-program" if behaviour == "missing" else sys.executable
    return servers.start(
        name, [program, str(STUB), port, behaviour], f"http://127.0.0.1:{port}", {}
    )


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("behaviour")


if __name__ == "__main__":
    sys.exit(run(demonstrate, "stub", Path("unused"), 1, add_options))

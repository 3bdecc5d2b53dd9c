# SPDX-License-Identifier: Apache-2.0
"""The command ``mooncake-connector`` and its subcommands."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Sequence

from mooncake_connector.cli import bench
from mooncake_connector.errors import MooncakeConnectorError

INTERRUPTED = 130  # what shells report for a command that Ctrl-C ended


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one subcommand.

    Args:
        arguments: the command line without the program's name; None means this process's.

    Returns:
        The exit status: 0, or 1 for a failure that was explained on stderr.
    """
    try:
        return _run(arguments)
    except MooncakeConnectorError as error:
        print(f"mooncake-connector: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED


def _run(arguments: Sequence[str] | None) -> int:
    parser = argparse.ArgumentParser(
        prog="mooncake-connector",
        description="Tools for moving paged KV cache between prefill and decode servers.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    bench.add_command(commands)
    options = parser.parse_args(arguments)
    if importlib.util.find_spec("rich") is None:
        parser.error("rich is not installed: pip install 'mooncake-connector[cli]'")
    return int(options.run(options))

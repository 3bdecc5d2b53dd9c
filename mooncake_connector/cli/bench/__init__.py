# SPDX-License-Identifier: Apache-2.0
"""``mooncake-connector bench``: the engine beside plain code that does the same, in one run."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from mooncake_connector.cli.bench import options as bench_options

if TYPE_CHECKING:
    from argparse import ArgumentParser, _SubParsersAction


def add_command(commands: _SubParsersAction[ArgumentParser]) -> None:
    """Adds ``bench`` to the command line."""
    parser = commands.add_parser(
        "bench",
        help="measure paged copies over every path beside memcpy and raw TCP",
        description="Moves pages between two processes over every path of the engine, beside "
        "memcpy, process_vm_writev and raw TCP streams, in interleaved rounds, and compares what "
        "was copied. Run it on an otherwise idle machine.",
    )
    bench_options.add_arguments(parser)

    def run(arguments: argparse.Namespace) -> int:
        try:
            options = bench_options.from_arguments(arguments)
        except argparse.ArgumentTypeError as error:
            parser.error(str(error))
        # What a run needs takes time to import; `--help` and other commands do without.
        from mooncake_connector.cli.bench import runner

        return runner.run(options)

    parser.set_defaults(run=run)

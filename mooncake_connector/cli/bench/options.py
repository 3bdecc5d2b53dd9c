# SPDX-License-Identifier: Apache-2.0
"""What a run measures, and how long."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30

PARTS = ("copies", "latency", "overload", "idle", "calls", "planning", "startup")
PATTERNS = ("random", "comb")
PATHS = ("auto", "shm", "cma", "tcp")
SIZES = (256, KIB, 4 * KIB, 16 * KIB, 64 * KIB, MIB, 16 * MIB)

WORD = 8  # bytes; contents are written and compared in such units
LARGE_BLOCK = 64 * KIB
SMALL_TRANSFER = 64 * MIB
LARGE_TRANSFER = 256 * MIB
MOST_PAGES = 1 << 16
LEAST_REGION = 4 * MIB

_SIZE = re.compile(r"(\d+)\s*([KMG]?)(?:I?B)?", re.IGNORECASE)
_UNITS = {"": 1, "K": KIB, "M": MIB, "G": GIB}


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of ``mooncake-connector bench``."""

    parts: tuple[str, ...] = PARTS
    sizes: tuple[int, ...] = SIZES
    """Bytes of a page."""
    patterns: tuple[str, ...] = PATTERNS
    paths: tuple[str, ...] = PATHS
    rounds: int = 5
    """Rounds whose median counts; one more, not counted, comes before them."""
    seconds: float = 0.25
    """A measurement repeats its transfer until about this much time has passed."""
    region: int = 512 * MIB
    """Bytes of the cache at each side, of which half is copied."""
    verify: str = "first"
    """``first`` or ``every``: the rounds whose contents are compared."""
    timeout: float = 120.0
    """Seconds after which a side that does not answer is given up."""
    json: Path | None = None
    require: bool = False
    """Exit with 1 when a required figure is missed."""

    def transfer_bytes(self, block: int) -> int:
        """How much one transfer of pages of ``block`` bytes moves."""
        goal = LARGE_TRANSFER if block >= LARGE_BLOCK else min(SMALL_TRANSFER, MOST_PAGES * block)
        return max(1, min(goal, self.region // 2) // block) * block


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds one argument for each field of ``Options``."""
    default = Options()
    parser.add_argument(
        "--parts", type=_choices("part", PARTS), default=default.parts, metavar="LIST",
        help=f"what to measure, of {','.join(PARTS)}",
    )  # fmt: skip
    parser.add_argument(
        "--sizes", type=_sizes, default=default.sizes, metavar="LIST",
        help=f"page sizes in bytes, such as 256,4K,16M (default: {_listing(default.sizes)})",
    )  # fmt: skip
    parser.add_argument(
        "--patterns", type=_choices("pattern", PATTERNS), default=default.patterns, metavar="LIST",
        help="random: no two pages side by side on purpose; comb: runs of 1 to 4 pages",
    )  # fmt: skip
    parser.add_argument(
        "--paths", type=_choices("path", PATHS), default=default.paths, metavar="LIST",
        help=f"the engine's paths, each forced; auto lets it choose (default: {','.join(PATHS)})",
    )  # fmt: skip
    parser.add_argument("--rounds", type=_at_least(1), default=default.rounds, metavar="N")
    parser.add_argument(
        "--seconds", type=_positive, default=default.seconds, metavar="S",
        help="least time of one measurement (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--region", type=_region, default=default.region, metavar="BYTES",
        help="size of the cache at each side (default: 512M)",
    )  # fmt: skip
    parser.add_argument(
        "--verify", choices=("first", "every"), default=default.verify,
        help="rounds whose contents are compared (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--timeout", type=_positive, default=default.timeout, metavar="S",
        help="give up a side that is silent for so long (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument(
        "--require", action="store_true", help="exit with 1 when a required figure is missed"
    )


def from_arguments(arguments: argparse.Namespace) -> Options:
    """The options that ``add_arguments`` made the parser read.

    Raises:
        argparse.ArgumentTypeError: the options contradict each other.
    """
    values = {name: getattr(arguments, name) for name in Options.__dataclass_fields__}
    options = Options(**values)
    largest = max(options.sizes)
    if 2 * largest > options.region:
        raise argparse.ArgumentTypeError(
            f"--region must hold at least two pages of the largest size: {2 * largest} bytes"
        )
    return options


def size_text(size: int) -> str:
    """A number of bytes in the largest unit that divides it: ``64 KiB``."""
    for unit, text in ((MIB, "MiB"), (KIB, "KiB")):
        if size % unit == 0:
            return f"{size // unit} {text}"
    return f"{size} B"


def _listing(sizes: Sequence[int]) -> str:
    return ",".join(size_text(size).replace(" ", "").removesuffix("iB") for size in sizes)


def _size(text: str) -> int:
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 256, 4K or 16MiB")
    return int(match[1]) * _UNITS[match[2].upper()]


def _sizes(text: str) -> tuple[int, ...]:
    sizes = tuple(_size(part) for part in text.split(","))
    for size in sizes:
        if size == 0 or size % WORD:
            raise argparse.ArgumentTypeError(
                f"page size {size} is not a positive multiple of {WORD}"
            )
    return tuple(sorted(set(sizes)))


def _region(text: str) -> int:
    size = _size(text)
    if size < LEAST_REGION or size % WORD:
        raise argparse.ArgumentTypeError(f"{text!r} is not a multiple of {WORD} of at least 4M")
    return size


def _choices(what: str, valid: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    def parse(text: str) -> tuple[str, ...]:
        names = [name.strip() for name in text.split(",")]
        for name in names:
            if name not in valid:
                raise argparse.ArgumentTypeError(
                    f"unknown {what} {name!r}; choose from {', '.join(valid)}"
                )
        return tuple(name for name in valid if name in names)

    return parse


def _at_least(least: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
        return int(text)

    return parse


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value

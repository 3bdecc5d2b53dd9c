# SPDX-License-Identifier: Apache-2.0
"""What a piece of code costs, in counts that are the same on every machine."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import mooncake_connector

PACKAGE = str(Path(mooncake_connector.__file__).parent)
BLOCKING_MODULES = frozenset({"_socket", "_ssl", "_posixsubprocess", "select"})
BLOCKING_FUNCTIONS = frozenset({"sleep", "acquire"})


def instructions(call: Callable[[], object]) -> int:
    """Bytecode instructions that this package executes during a call: a loop shows, however short.

    What others execute is left out: their costs are not ours to bound.
    """
    count = 0

    def trace(frame: FrameType, event: str, _argument: Any) -> Any:
        nonlocal count
        if event == "call":
            if not frame.f_code.co_filename.startswith(PACKAGE):
                return None
            frame.f_trace_opcodes = True
            frame.f_trace_lines = False
        elif event == "opcode":
            count += 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return count


def memory(call: Callable[[], object]) -> int:
    """Bytes that a call had in use at once, beyond what was there: a copy of a container shows."""
    tracemalloc.start()
    try:
        start, _ = tracemalloc.get_traced_memory()
        call()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return peak - start


def blocking_calls(call: Callable[[], object]) -> list[str]:
    """Functions of the interpreter that can wait, as called by this thread during a call.

    Waiting for a lock in a ``with`` statement does not show; those of log handlers are left out.
    """
    found = []

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        if event != "c_call" or frame.f_globals.get("__name__") == "logging":
            return
        owner = argument.__module__ or type(argument.__self__).__module__
        if owner in BLOCKING_MODULES or argument.__name__ in BLOCKING_FUNCTIONS:
            found.append(f"{owner}.{argument.__name__}")

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        call()
    finally:
        sys.setprofile(before)
    return found

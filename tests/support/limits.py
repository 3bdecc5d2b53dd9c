# SPDX-License-Identifier: Apache-2.0
"""What the kernel grants this process, and what it has; for processes that tests start, too."""

from __future__ import annotations

import os
import resource
from pathlib import Path


def limit(name: str, value: int) -> None:
    """Limits a resource of this process; -1 lifts the limit again."""
    kind = getattr(resource, name)
    hard = resource.getrlimit(kind)[1]
    resource.setrlimit(kind, (hard if value < 0 else value, hard))


def descriptors() -> int:
    """Open in this process."""
    return len(os.listdir("/proc/self/fd"))


def address_space() -> int:
    """Of this process, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def unbacked_rings() -> list[str]:
    """Shared memory of this process that the kernel has not set aside in full."""
    found = []
    for link in Path("/proc/self/fd").iterdir():
        if link.exists() and "mooncake_connector ring" in os.readlink(link):
            about = link.stat()
            if about.st_blocks * 512 < about.st_size:
                found.append(f"{about.st_blocks * 512} of {about.st_size} bytes")
    return found

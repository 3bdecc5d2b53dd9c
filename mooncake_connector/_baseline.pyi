# SPDX-License-Identifier: Apache-2.0
"""Plain ways to move scattered bytes: what `mooncake-connector bench` compares with.

`segments` are C-contiguous (n, 2) arrays of uint64, rows (address, length); `spans` are (n, 3),
rows (source address, destination address, length), lengths in bytes. Addresses are used as they
are: a wrong one crashes the process. Every function runs on the calling thread without the GIL,
blocks until all bytes have passed, and raises OSError with the call's errno.
"""

import numpy as np
from numpy.typing import NDArray

RING_BYTES: int
"""Size of the shared memory that a ring needs; all zero is an empty ring."""

def copy(spans: NDArray[np.uint64]) -> None:
    """Copies each span with memcpy."""

def write_process(pid: int, spans: NDArray[np.uint64]) -> None:
    """Writes into process `pid` with process_vm_writev; PermissionError where that is forbidden."""

def send_vectored(socket: int, segments: NDArray[np.uint64]) -> None:
    """Sends with sendmsg, 1,024 vectors a call, on the blocking socket with this descriptor."""

def receive_vectored(socket: int, segments: NDArray[np.uint64]) -> None:
    """Receives as many bytes as the segments hold, with readv; ConnectionResetError if too few."""

def send_packed(socket: int, segments: NDArray[np.uint64]) -> None:
    """Gathers into a buffer of 256 KiB, sends it, and so on."""

def receive_packed(socket: int, segments: NDArray[np.uint64]) -> None:
    """Receives into a buffer of 256 KiB, scatters it, and so on."""

def send_through_ring(memory: NDArray[np.uint8], segments: NDArray[np.uint64]) -> None:
    """Gathers 256 KiB at a time into a ring in shared memory of RING_BYTES.

    TimeoutError when the receiver has not moved for 30 s.
    """

def receive_through_ring(memory: NDArray[np.uint8], segments: NDArray[np.uint64]) -> None:
    """Scatters what the other process gathers; TimeoutError when it has not moved for 30 s."""

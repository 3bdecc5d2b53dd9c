# SPDX-License-Identifier: Apache-2.0
"""The engine's arithmetic of pages as functions over arrays; no engine and no network is involved.

Page ids are C-contiguous int32 arrays. A pool's planes must describe memory that is alive, since
their addresses are used as they are. `tokens` is (first, end). All but `plan` need host memory. Bad
pools and pages raise `ConfigError`, `LayoutMismatch` or `UnsupportedError`, arrays of another type
`TypeError`; nothing was copied then. The GIL is not held while bytes are copied.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mooncake_connector.pools import PoolSpec

def plan(
    sources: Sequence[tuple[PoolSpec, NDArray[np.int32]]],
    destination: PoolSpec,
    destination_pages: NDArray[np.int32],
    *,
    tokens: tuple[int, int],
    source_start: int = 0,
    destination_start: int = 0,
    receiver_index: int = 0,
) -> list[NDArray[np.uint64]]:
    """The spans that a transfer from these senders to this receiver copies. Nothing is copied.

    Args:
        sources: (pool, pages) of each sender.
        destination: the receiver's pool.
        destination_pages: its pages.
        tokens: what is copied, as far as both sides have pages for it that are not null.
        source_start: the token with which each sender's first page begins.
        destination_start: the token with which the receiver's first page begins.
        receiver_index: which of several receivers this is; rotates who sends what several hold.

    Returns:
        For each sender an (n, 3) array: source address, destination address, length in bytes.
    """

def count_spans(
    sources: Sequence[tuple[PoolSpec, NDArray[np.int32]]],
    destination: PoolSpec,
    destination_pages: NDArray[np.int32],
    *,
    tokens: tuple[int, int],
    source_start: int = 0,
    destination_start: int = 0,
    receiver_index: int = 0,
) -> list[int]:
    """How many spans `plan` yields for each sender; keeps none, as a transfer keeps none."""

def gather(
    pool: PoolSpec,
    pages: NDArray[np.int32],
    tokens: tuple[int, int] | None = None,
    offset: int = 0,
    length: int | None = None,
) -> NDArray[np.uint8]:
    """The bytes of pages, one behind the other, in an order that no layout of the pool changes.

    Layers in ascending order, of each K before V, of each the tokens, of each its heads, of each
    its elements. `pages[0]` begins with token 0; without `tokens`, all of the pages is meant.
    `length` bytes from `offset` on are returned; without `length`, all from there on.
    """

def scatter(
    pool: PoolSpec,
    pages: NDArray[np.int32],
    data: NDArray[np.uint8],
    tokens: tuple[int, int] | None = None,
) -> None:
    """Writes back what `gather` returned, perhaps to a pool of another layout."""

def digest(pool: PoolSpec, pages: NDArray[np.int32], tokens: tuple[int, int] | None = None) -> int:
    """A 64-bit digest of what `gather` would return; finds damage, not forgery."""

def copy(spans: NDArray[np.uint64]) -> None:
    """Copies each row (source address, destination address, length in bytes) with memcpy."""

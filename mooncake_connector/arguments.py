# SPDX-License-Identifier: Apache-2.0
"""Checks of what callers pass to the engine: what is wrong is named before it is queued."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence, Sized
from typing import Final

import numpy as np
import numpy.typing as npt

from mooncake_connector.errors import ConfigError

PageIds = Sequence[int] | npt.NDArray[np.int32]

_NO_PAGES: Final[npt.NDArray[np.int32]] = np.empty(0, np.int32)


def as_page_array(page_ids: PageIds) -> npt.NDArray[np.int32]:
    """Page ids as a contiguous int32 array, shape (pages,).

    Raises:
        ConfigError: they are not whole numbers below 2**31.
    """
    if not isinstance(page_ids, Sized) or isinstance(page_ids, (str, bytes)):
        raise ConfigError(f"page ids must be a list or an array of whole numbers, not {page_ids!r}")
    if len(page_ids) == 0:
        return _NO_PAGES
    given = np.asarray(page_ids)
    if given.dtype == np.int32:
        return np.ascontiguousarray(given)
    if given.dtype.kind not in "iu":
        raise ConfigError(f"page ids must be whole numbers below 2**31, not {given.dtype}")
    pages = given.astype(np.int32)
    if not np.array_equal(pages, given):
        wrong = given[pages != given][0]
        raise ConfigError(f"page {wrong} is no page id: these are int32")
    return pages


def as_count(value: int, name: str, bits: int = 32) -> int:
    """A whole number that is not negative: of tokens, pages, bytes, or the number of one.

    Raises:
        ConfigError: it is not a whole number from 0 to 2**bits - 1.
    """
    try:
        count = operator.index(value)
    except TypeError:
        count = -1
    if not 0 <= count < 1 << bits:
        raise ConfigError(f"{name}={value!r} is not a whole number from 0 to 2**{bits} - 1")
    return count


def as_list_of_counts(values: npt.ArrayLike, name: str) -> npt.NDArray[np.uint64]:
    """Addresses or lengths as a contiguous uint64 array, shape (segments,).

    Raises:
        ConfigError: they are not whole numbers from 0 to 2**64 - 1.
    """
    given = np.asarray(values)
    if given.size and given.dtype.kind not in "iu":
        raise ConfigError(f"{name} must be whole numbers (uint64), not {given.dtype}")
    if given.dtype.kind == "i" and given.size and given.min() < 0:
        raise ConfigError(f"{name}[{given.argmin()}] = {given.min()} is negative")
    return np.ascontiguousarray(given, np.uint64)


def as_seconds(value: float, name: str) -> float:
    """A time to wait in seconds; infinity is allowed.

    Raises:
        ConfigError: it is not a number, or negative.
    """
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = math.nan
    if not seconds >= 0:
        raise ConfigError(f"{name}={value!r} is not a number of seconds")
    return seconds


def as_tag(tag: bytes) -> bytes:
    """A transfer's tag.

    Raises:
        ConfigError: it is not bytes. (How many it may be, the engine says.)
    """
    if not isinstance(tag, bytes):
        raise ConfigError(f"tag={tag!r} must be bytes, for instance {str(tag).encode()!r}")
    return tag

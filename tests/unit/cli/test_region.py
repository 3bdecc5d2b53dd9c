# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from mooncake_connector import _baseline
from mooncake_connector.cli.bench.options import MIB
from mooncake_connector.cli.bench.region import ContentError, Region
from mooncake_connector.cli.bench.workload import Workload, WorkloadSpec

SIZE = 2 * MIB
BLOCK = 256


@pytest.fixture
def source() -> Region:
    region = Region(SIZE)
    region.fill()
    return region


@pytest.fixture
def workload() -> Workload:
    return Workload.make(WorkloadSpec(BLOCK, "comb", SIZE // BLOCK // 2, SIZE // BLOCK))


@pytest.fixture
def copied(source: Region, workload: Workload) -> Region:
    destination = Region(SIZE)
    for source_page, page in zip(workload.source, workload.destination, strict=True):
        at, to = int(source_page) * BLOCK, int(page) * BLOCK
        destination.bytes[to : to + BLOCK] = source.bytes[at : at + BLOCK]
    return destination


def test_what_was_copied_is_accepted(copied: Region, workload: Workload) -> None:
    copied.check(workload)


def test_no_two_words_are_equal(source: Region) -> None:
    assert len(np.unique(source.bytes.view(np.uint64))) == SIZE // 8


@pytest.mark.parametrize("index", [0, 1000, -1])
@pytest.mark.parametrize("byte", [0, 77, BLOCK - 1])
def test_a_single_wrong_bit_is_found(
    copied: Region, workload: Workload, index: int, byte: int
) -> None:
    page = int(workload.destination[index])
    copied.bytes[page * BLOCK + byte] ^= 1
    with pytest.raises(ContentError, match=f"page {page} differs .* byte {byte // 8 * 8} of 256"):
        copied.check(workload)


def test_a_page_that_nothing_was_copied_to_must_not_change(
    copied: Region, workload: Workload
) -> None:
    others = set(range(SIZE // BLOCK)) - set(workload.destination.tolist())
    page = sorted(others)[len(others) // 2]
    copied.bytes[page * BLOCK + 9] ^= 1
    with pytest.raises(ContentError, match=f"page {page} changed, but nothing was copied to it"):
        copied.check(workload)


def test_swapped_pages_are_found(copied: Region, workload: Workload) -> None:
    first, second = (int(page) * BLOCK for page in workload.destination[[3, 30]])
    kept = copied.bytes[first : first + BLOCK].copy()
    copied.bytes[first : first + BLOCK] = copied.bytes[second : second + BLOCK]
    copied.bytes[second : second + BLOCK] = kept
    with pytest.raises(ContentError, match="index 3 of"):
        copied.check(workload)


def test_poisoned_pages_must_be_copied_again(
    source: Region, copied: Region, workload: Workload
) -> None:
    copied.poison(workload.destination, BLOCK)
    with pytest.raises(ContentError):
        copied.check(workload)
    _baseline.copy(workload.spans(source.address, copied.address))
    copied.check(workload)

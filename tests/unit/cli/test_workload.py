# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooncake_connector.cli.bench.workload import Workload, WorkloadSpec

PATTERNS = st.sampled_from(["random", "comb"])


def runs(pages: np.ndarray) -> list[int]:
    """Lengths of the stretches of consecutive ids."""
    lengths = [1]
    for previous, page in pairwise(pages):
        if page == previous + 1:
            lengths[-1] += 1
        else:
            lengths.append(1)
    return lengths


@given(PATTERNS, st.integers(1, 300), st.integers(0, 50))
def test_pages_are_different_and_exist(pattern: str, pages: int, spare: int) -> None:
    workload = Workload.make(WorkloadSpec(256, pattern, pages, 2 * pages + spare))
    for side in (workload.source, workload.destination):
        assert side.dtype == np.int32
        assert len(set(side.tolist())) == len(side) == pages
        assert side.min() >= 0
        assert side.max() < 2 * pages + spare


@given(st.integers(1, 300), st.integers(0, 50))
def test_a_comb_has_the_same_short_runs_on_both_sides(pages: int, spare: int) -> None:
    workload = Workload.make(WorkloadSpec(256, "comb", pages, 2 * pages + spare))
    assert runs(workload.source) == runs(workload.destination)
    assert max(runs(workload.source)) <= 4
    if pages > 20:
        assert len(set(runs(workload.source))) > 1


@given(PATTERNS, st.integers(1, 100))
def test_spans_are_the_pages_merged(pattern: str, pages: int) -> None:
    block, source_base, destination_base = 64, 1 << 40, 1 << 44
    workload = Workload.make(WorkloadSpec(block, pattern, pages, 2 * pages))
    expected: list[list[int]] = []
    for source, destination in zip(workload.source, workload.destination, strict=True):
        row = [source_base + int(source) * block, destination_base + int(destination) * block]
        if expected and [expected[-1][i] + expected[-1][2] for i in range(2)] == row:
            expected[-1][2] += block
        else:
            expected.append([*row, block])
    assert workload.spans(source_base, destination_base).tolist() == expected
    assert workload.segments(workload.source, source_base).tolist() == [
        [source, length] for source, _, length in expected
    ]
    assert workload.segments(workload.destination, destination_base).tolist() == [
        [destination, length] for _, destination, length in expected
    ]


@given(PATTERNS, st.integers(1, 100), st.data())
def test_the_transfers_are_the_whole(pattern: str, pages: int, data: st.DataObject) -> None:
    workload = Workload.make(WorkloadSpec(64, pattern, pages, 2 * pages))
    parts = workload.divide(data.draw(st.integers(1, pages)))
    assert np.array_equal(np.concatenate([part.source for part in parts]), workload.source)
    assert np.array_equal(
        np.concatenate([part.destination for part in parts]), workload.destination
    )
    assert all(len(part.source) > 0 for part in parts)


@pytest.mark.parametrize("pattern", ["random", "comb"])
def test_both_sides_make_the_same_workload(pattern: str) -> None:
    spec = WorkloadSpec(64, pattern, 100, 300)
    one, other = Workload.make(spec), Workload.make(spec)
    assert np.array_equal(one.source, other.source)
    assert np.array_equal(one.destination, other.destination)

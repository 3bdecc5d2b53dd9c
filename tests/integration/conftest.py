# SPDX-License-Identifier: Apache-2.0
"""Figures that tests measure, and processes under load."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from support.figures import MARK, Figure
from support.sites import Sites


@pytest.fixture
def figure(record_property: Callable[[str, object], None]) -> Figure:
    """Notes something measured in the JUnit report, for tools/reliability.py."""

    def note(promise: str, measured: str) -> None:
        record_property(MARK + promise, measured)

    return note


@pytest.fixture
def sites() -> Iterator[Sites]:
    """Makes processes with a station for each path; ends them."""
    with Sites() as made:
        yield made

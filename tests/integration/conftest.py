# SPDX-License-Identifier: Apache-2.0
"""Processes under load."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.sites import Sites


@pytest.fixture
def sites() -> Iterator[Sites]:
    """Makes processes with a station for each path; ends them."""
    with Sites() as made:
        yield made

# SPDX-License-Identifier: Apache-2.0
"""The rule that tells a leak from noise, with leaks and noise that are made up."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "tools"))

from trend import trend

MINUTES = np.linspace(0, 30, 400)
ALLOWANCE = 16.0


def _leaks(values: np.ndarray) -> bool:
    return trend("memory", MINUTES, values, ALLOWANCE).leaks


def _noise(scale: float) -> np.ndarray:
    return 100 + scale * np.random.default_rng(7).standard_normal(len(MINUTES))


def test_noise_is_no_leak() -> None:
    assert not _leaks(_noise(30.0))


def test_a_slow_leak_under_noise_is_found() -> None:
    assert _leaks(_noise(10.0) + 1.0 * MINUTES)  # 20 in the 20 minutes that count


def test_what_the_start_needs_is_no_leak() -> None:
    assert not _leaks(_noise(1.0) + 200 * np.minimum(MINUTES / 9, 1))


def test_a_few_wild_samples_do_not_count() -> None:
    values = _noise(1.0)
    values[-20:] += 1000
    assert not _leaks(values)


def test_a_leak_in_steps_is_found() -> None:
    assert _leaks(_noise(1.0) + 5 * np.floor(MINUTES / 3))


def test_growth_is_that_of_the_last_two_thirds() -> None:
    found = trend("memory", MINUTES, 3 * MINUTES, ALLOWANCE)
    assert found.growth == pytest.approx(60, rel=0.02)
    assert "LEAKS" in str(found)


def test_too_few_samples_say_nothing() -> None:
    with pytest.raises(ValueError, match="too few"):
        trend("memory", range(9), range(9), 1)

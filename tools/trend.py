# SPDX-License-Identifier: Apache-2.0
"""Tells a leak from noise in something that was sampled over time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# What a program needs to get going is no leak: the first third of a run is left out.
SETTLING = 1 / 3
FEWEST_SAMPLES = 12


@dataclass(frozen=True)
class Trend:
    """What a quantity did over the part of a run that counts.

    Attributes:
        name: of the quantity.
        growth: by how much it grew, as the slope says; not the difference of two samples.
        allowance: by how much it may grow.
    """

    name: str
    growth: float
    allowance: float

    @property
    def leaks(self) -> bool:
        """Whether it grew by more than it may."""
        return self.growth > self.allowance

    def __str__(self) -> str:
        verdict = "LEAKS" if self.leaks else "ok"
        return f"{self.name}: grew by {self.growth:.1f}, may grow by {self.allowance:g}: {verdict}"


def trend(name: str, times: Sequence[float], values: Sequence[float], allowance: float) -> Trend:
    """The growth over the last two thirds of a run, by the Theil-Sen slope.

    That is the median of the slopes between all pairs of samples, so that a few wild ones (a sample
    in the middle of a restart) and noise do not count, and a slow steady leak does.

    Args:
        name: of the quantity.
        times: when it was sampled; any unit.
        values: the samples.
        allowance: by how much it may grow in the time that counts.

    Raises:
        ValueError: there are too few samples to say anything.
    """
    at, value = np.asarray(times, float), np.asarray(values, float)
    counts = at >= at[0] + (at[-1] - at[0]) * SETTLING
    at, value = at[counts], value[counts]
    if len(at) < FEWEST_SAMPLES:
        raise ValueError(f"{name}: {len(at)} samples are too few to see a trend in")
    first, second = np.triu_indices(len(at), 1)
    slopes = (value[second] - value[first]) / (at[second] - at[first])
    return Trend(name, float(np.median(slopes) * (at[-1] - at[0])), allowance)

"""Means over seeds, how sure they are, and when a difference counts.

The rule. A score is the mean of many drawings, and a model one of the many that other seeds would give. Its standard
error joins both: the spread over trainings, std / sqrt(seeds), and the spread over choices of drawings (see marks),
which are the same for all models, so that this part is that of a difference itself. Where single drawings are not
known, it is that of a fraction of `pictures` drawings, sqrt(p (1 - p) / pictures). A training with one seed says
nothing of the spread: its error is not known. Something is greater than 0 if it is so by more than two standard errors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import hypot, sqrt
from statistics import mean, stdev

import numpy as np

HOLDS, FAILS, OPEN = "holds", "does not hold", "not resolved"


@dataclass(frozen=True)
class Stat:
    """A number of a row, over its seeds. `pictures`: drawings of one seed; None for what is counted, not drawn."""

    mean: float
    std: float | None
    """over trainings; None where fewer than two"""
    seeds: int
    """trainings; 0 where nothing was trained"""
    pictures: int | None = None
    redrawn: np.ndarray | None = field(default=None, compare=False)
    """the mean with other choices of drawings, the same choices for all models"""

    @property
    def of_trainings(self) -> float | None:
        """The part of the standard error that is of trainings; None where it is not known."""
        return None if self.seeds == 1 else (self.std or 0.0) / sqrt(max(self.seeds, 1))

    @property
    def of_drawings(self) -> float:
        """The part of the standard error that is of this number's drawings alone."""
        if self.pictures is None:
            return 0.0
        # one right and one wrong more: a fraction of 0 or 1 is not certain
        p = (self.mean * self.pictures + 1) / (self.pictures + 2)
        return sqrt(p * (1 - p) / self.pictures)


def stat(
    values: Sequence[float], trained: bool, pictures: int | None = None, redrawn: np.ndarray | None = None
) -> Stat:
    """The mean of one value for each seed."""
    std = stdev(values) if len(values) > 1 else None
    return Stat(mean(values), std, len(values) if trained else 0, pictures, redrawn)


def combined(parts: Sequence[tuple[float, Stat]]) -> tuple[float, float | None]:
    """The sum of factor * number, and its standard error if all errors are known."""
    value = sum(factor * one.mean for factor, one in parts)
    if any(one.of_trainings is None for _, one in parts):
        return value, None
    of_trainings = hypot(*(factor * one.of_trainings for factor, one in parts))
    return value, hypot(of_trainings, of_drawings(parts))


def of_drawings(parts: Sequence[tuple[float, Stat]]) -> float:
    """The part of a sum's standard error that is of its drawings, together where single drawings are known."""
    if any(one.redrawn is None for _, one in parts):
        return hypot(*(factor * one.of_drawings for factor, one in parts))
    together = float(np.std(sum(factor * one.redrawn for factor, one in parts), ddof=1))
    # what never changed is not certain: one drawing more could be otherwise
    return max([together, *(abs(factor) / one.pictures for factor, one in parts if one.pictures)])


def greater(parts: Sequence[tuple[float, Stat]]) -> str:
    """Whether the sum of factor * number is above 0."""
    value, error = combined(parts)
    if error is None or abs(value) <= 2 * error:
        return OPEN
    return HOLDS if value > 0 else FAILS


def within(stats: Mapping[str, Stat], band: float) -> str:
    """Whether the best and the worst lie less than `band` apart."""
    best = max(stats.values(), key=lambda one: one.mean)
    worst = min(stats.values(), key=lambda one: one.mean)
    value, error = combined([(1.0, best), (-1.0, worst)])
    if error is None:
        return OPEN
    if value + 2 * error <= band:
        return HOLDS
    return FAILS if value - 2 * error > band else OPEN

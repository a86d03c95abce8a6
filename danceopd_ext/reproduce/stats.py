"""Computes means over seeds, their standard errors, and whether a difference counts.

A score is the mean of many drawings, and a model is one of the many that other seeds would give. Its standard error
combines both: the spread over trainings, std / sqrt(seeds), and the spread over choices of drawings (see
drawing_scores). The choices are the same for all models, so the second part applies to a difference as well. If the
scores of single drawings are not known, the second part is that of a fraction of `pictures` drawings,
sqrt(p (1 - p) / pictures). One training does not show the spread: its error is not known. A value is greater than 0 if
its 95 % confidence interval is: Student's, with the degrees of freedom of Welch and Satterthwaite. Few trainings show
little of their own spread: if that is most of the error, the interval extends up to 4.3 errors to each side for three
trainings and 12.7 for two, not 2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import hypot, inf, sqrt
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


def perfect(one: Stat) -> Stat:
    """The number if every drawing of every training had been right."""
    redrawn = None if one.redrawn is None else np.ones_like(one.redrawn)
    return replace(one, mean=1.0, std=None if one.std is None else 0.0, redrawn=redrawn)


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


def margin(parts: Sequence[tuple[float, Stat]]) -> float | None:
    """Half of the 95 % confidence interval of a sum of factor * number, if all errors are known."""
    from scipy.stats import t  # here: tables are planned without

    _, error = combined(parts)
    if not error:
        return error
    # what is not trained, or never differed, has no spread to be unsure of
    shares = [((factor * one.of_trainings) ** 2, one.seeds - 1) for factor, one in parts if one.of_trainings]
    unsure = sum(variance**2 / freedom for variance, freedom in shares)
    return error * float(t.ppf(0.975, error**4 / unsure if unsure else inf))


def greater(parts: Sequence[tuple[float, Stat]]) -> str:
    """Whether the sum of factor * number is above 0."""
    value, half = combined(parts)[0], margin(parts)
    if half is None or abs(value) <= half:
        return OPEN
    return HOLDS if value > 0 else FAILS


def within(stats: Mapping[str, Stat], band: float) -> str:
    """Whether the best and the worst lie less than `band` apart."""
    best = max(stats.values(), key=lambda one: one.mean)
    worst = min(stats.values(), key=lambda one: one.mean)
    parts = [(1.0, best), (-1.0, worst)]
    value, half = combined(parts)[0], margin(parts)
    if half is None:
        return OPEN
    if value + half <= band:
        return HOLDS
    return FAILS if value - half > band else OPEN

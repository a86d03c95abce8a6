"""Means over seeds, how sure they are, and when a difference counts.

The rule. A score is the mean of many drawings, and a model one of the many that other seeds would give. Its standard
error joins both: the spread over trainings, std / sqrt(seeds), and that of a fraction of `pictures` drawings,
sqrt(p (1 - p) / pictures). All models draw the same prompts from the same noise, so the second part is on the careful
side for a difference. A training with one seed says nothing of the spread: its error is not known. Something is
greater than 0 if it is so by more than two standard errors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import mean, stdev

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

    @property
    def error(self) -> float | None:
        """The standard error; None where it is not known."""
        if self.seeds == 1:
            return None
        spread = (self.std or 0.0) ** 2 / max(self.seeds, 1)
        if self.pictures is None:
            return sqrt(spread)
        # one right and one wrong more: a fraction of 0 or 1 is not certain
        p = (self.mean * self.pictures + 1) / (self.pictures + 2)
        return sqrt(spread + p * (1 - p) / self.pictures)


def stat(values: Sequence[float], trained: bool, pictures: int | None = None) -> Stat:
    """The mean of one value for each seed."""
    return Stat(mean(values), stdev(values) if len(values) > 1 else None, len(values) if trained else 0, pictures)


def combined(parts: Sequence[tuple[float, Stat]]) -> tuple[float, float | None]:
    """The sum of factor * number, and its standard error if all errors are known."""
    errors = [one.error for _, one in parts]
    value = sum(factor * one.mean for factor, one in parts)
    if any(error is None for error in errors):
        return value, None
    return value, sqrt(sum((factor * error) ** 2 for (factor, _), error in zip(parts, errors, strict=True)))


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

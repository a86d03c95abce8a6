"""Repeats the data of each route in a toolkit's own dataset so that it comes up by its weight."""

from __future__ import annotations

import random
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

from danceopd_ext.method import derive_seed

T = TypeVar("T", bound=Hashable)

#: a route is repeated at most this many times
MOST_REPEATS = 1000


def balanced(entries: Mapping[str, Sequence[T]], weights: Mapping[str, float], seed: int) -> dict[str, list[T]]:
    """Repeat each route's entries so that their numbers are proportional to the weights (`[danceopd.routes]`).

    A toolkit draws its data evenly, so each route comes up by its weight, whatever the sizes of the datasets. Every
    entry of a route with a weight stays; the seed decides which appear once more than others. A route of weight 0 is
    left out.
    """
    drawn = {name: list(items) for name, items in entries.items() if items and weights[name] > 0}
    if not drawn:
        return {}
    per_weight = max(len(items) / weights[name] for name, items in drawn.items())
    return {name: _repeat(items, weights[name] * per_weight, name, seed) for name, items in drawn.items()}


def _repeat(items: list[T], wanted: float, name: str, seed: int) -> list[T]:
    count = min(round(wanted), len(items) * MOST_REPEATS)
    whole, rest = divmod(count, len(items))
    return items * whole + random.Random(derive_seed(seed, "repeat", name)).sample(items, rest)

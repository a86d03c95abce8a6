"""Which data belongs to which teacher, and how often each is seen, in a toolkit's own dataset."""

from __future__ import annotations

import random
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

from danceopd_ext.method import derive_seed

T = TypeVar("T", bound=Hashable)

#: a route is repeated at most so often against the one that is repeated least
MOST_REPEATS = 1000


def balanced(entries: Mapping[str, Sequence[T]], weights: Mapping[str, float], seed: int) -> dict[str, list[T]]:
    """Repeat each route's entries so that their numbers stand to each other as the weights.

    A toolkit draws its data evenly, so this makes a route come up by its weight, whatever the sizes of the data sets
    (`[danceopd.routes]`). Every entry of a route with a weight stays; which of them appear once more than others is
    drawn from the seed. A route of weight 0 is left out.
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

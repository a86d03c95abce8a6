"""Draws which states of the rollout are queried (paper, section "query distribution").

u in [0, 1) is drawn, 1 being the clean side; the queried index is floor(u * N): 0 is pure noise and N - 1 is the last
state before the clean end.
"""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from math import comb

import torch

from danceopd_ext.method.randomness import generator

#: name -> (a, b) of Beta(a, b); None if u is not beta distributed
QUERIES: dict[str, tuple[int, int] | None] = {
    "low_noise": (5, 2),
    "mid_noise": (5, 5),
    "high_noise": (2, 5),
    "uniform": (1, 1),
    "stratified": None,
}


def beta_order_statistic(a: int, b: int, rng: torch.Generator) -> float:
    """Return one number from Beta(a, b) with whole a and b: the a-th smallest of a + b - 1 uniform numbers, exactly."""
    return float(torch.rand(a + b - 1, generator=rng).sort().values[a - 1])


@lru_cache
def index_probabilities(a: int, b: int, num_steps: int) -> tuple[float, ...]:
    """Return the probability of each index floor(u * N) for u from Beta(a, b), with whole a and b, as exact fractions.

    u is at most x if at least a of a + b - 1 uniform numbers are.
    """
    n = a + b - 1

    def at_most(x: Fraction) -> Fraction:
        return sum((comb(n, j) * x**j * (1 - x) ** (n - j) for j in range(a, n + 1)), Fraction(0))

    edges = [at_most(Fraction(i, num_steps)) for i in range(num_steps + 1)]
    return tuple(float(after - before) for before, after in pairwise(edges))


def distinct_indices(query: str, num_queries: int, num_steps: int, rng: torch.Generator) -> list[int]:
    """Return K different indices floor(u * N) in ascending order; a repeated index is drawn again.

    It is drawn again from the others directly: with K near N the last index could take a million tries.
    """
    a, b = QUERIES[query]
    chosen = [min(int(beta_order_statistic(a, b, rng) * num_steps), num_steps - 1)]
    others = torch.tensor(index_probabilities(a, b, num_steps), dtype=torch.float64)
    while len(chosen) < num_queries:
        others[chosen] = 0
        chosen.append(int(torch.multinomial(others, 1, generator=rng)))
    return sorted(chosen)


def stratified_indices(num_queries: int, num_steps: int, place: float) -> list[int]:
    """Return one index in each of K equal strata of [0, 1); `place` in [0, 1) is the sample's place in its strata."""
    return [min(int((k + place) / num_queries * num_steps), num_steps - 1) for k in range(num_queries)]


def draw_query_indices(
    query: str, num_queries: int, num_steps: int, *, seed: int, step: int, indices: list[int], total: int
) -> torch.Tensor:
    """Return the step indices [B, K] in 0..N-1 (ascending) at which samples `indices` of a step's `total` are queried.

    `stratified` also spreads the samples of a step: each uses another of `total` equal parts of its strata.
    Raises ValueError if the name is unknown or K is not in 1..N.
    """
    if query not in QUERIES:
        raise ValueError(f'query "{query}" is not one of {", ".join(QUERIES)}')
    if not 1 <= num_queries <= num_steps:
        raise ValueError(f"num_queries must be 1 to {num_steps} (the rollout steps), not {num_queries}")
    if query != "stratified":
        rngs = (generator(seed, "query", step, i) for i in indices)
        return torch.tensor([distinct_indices(query, num_queries, num_steps, rng) for rng in rngs])
    order = torch.randperm(total, generator=generator(seed, "strata", step)).tolist()
    rows = []
    for i in indices:
        place = (order[i] + float(torch.rand((), generator=generator(seed, "query", step, i)))) / total
        rows.append(stratified_indices(num_queries, num_steps, place))
    return torch.tensor(rows)

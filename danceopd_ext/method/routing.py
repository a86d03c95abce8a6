"""Hard routing: one teacher for one step's samples, drawn by weight (paper, section "capability routing")."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from danceopd_ext.method.randomness import generator


def shares(weights: Mapping[str, float]) -> dict[str, float]:
    """Route -> weight / sum of weights, by name, without those that are never drawn.

    Raises ValueError when there is no route, a weight is negative, or all are zero.
    """
    total = float(sum(weights.values()))
    if any(w < 0 for w in weights.values()) or total <= 0:
        raise ValueError(f"route weights must be 0 or more and not all 0: {dict(weights)}")
    return {name: weights[name] / total for name in sorted(weights) if weights[name] > 0}


def draw_route(weights: Mapping[str, float], seed: int, step: int) -> str:
    """The route of a step, drawn with probability weight / sum of weights, whatever came before it.

    The order in which the routes are given changes nothing.
    Raises ValueError when there is no route, a weight is negative, or all are zero.
    """
    chances = shares(weights)
    total = float(sum(weights.values()))
    u = float(torch.rand((), generator=generator(seed, "route", step), dtype=torch.float64)) * total
    for name in chances:
        u -= weights[name]
        if u < 0:
            return name
    return list(chances)[-1]  # u rounded up to the total

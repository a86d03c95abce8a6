"""Draws the route of a step by weight: one teacher for all its samples (paper, section "capability routing")."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from danceopd_ext.method.randomness import generator


def shares(weights: Mapping[str, float]) -> dict[str, float]:
    """Return route -> weight / sum of weights, by name, without those that are never drawn.

    Raises ValueError if there is no route, a weight is negative, or all are zero.
    """
    total = float(sum(weights.values()))
    if any(w < 0 for w in weights.values()) or total <= 0:
        raise ValueError(f"route weights must be 0 or more and not all 0: {dict(weights)}")
    return {name: weights[name] / total for name in sorted(weights) if weights[name] > 0}


def draw_route(weights: Mapping[str, float], seed: int, step: int) -> str:
    """Return the route of a step, drawn with probability weight / sum of weights, independent of earlier steps.

    The order of the routes does not matter.
    Raises ValueError if there is no route, a weight is negative, or all are zero.
    """
    chances = shares(weights)
    total = float(sum(weights.values()))
    u = float(torch.rand((), generator=generator(seed, "route", step), dtype=torch.float64)) * total
    for name in chances:
        u -= weights[name]
        if u < 0:
            return name
    return list(chances)[-1]  # u rounded up to the total

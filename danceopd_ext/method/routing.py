"""Hard routing: one teacher for one step's samples, drawn by weight (paper, section "capability routing")."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from danceopd_ext.method.randomness import generator


def draw_route(weights: Mapping[str, float], seed: int, step: int) -> str:
    """The route of a step, drawn with probability weight / sum of weights, whatever came before it.

    Raises ValueError when there is no route, a weight is negative, or all are zero.
    """
    total = float(sum(weights.values()))
    if any(w < 0 for w in weights.values()) or total <= 0:
        raise ValueError(f"route weights must be 0 or more and not all 0: {dict(weights)}")
    u = float(torch.rand((), generator=generator(seed, "route", step), dtype=torch.float64)) * total
    for name, weight in weights.items():
        u -= weight
        if u < 0:
            return name
    return next(name for name in reversed(weights) if weights[name] > 0)

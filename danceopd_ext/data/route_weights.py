"""Checks the weights by which routes are drawn (`[danceopd.routes]`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from danceopd_ext.errors import UserError, nearest
from danceopd_ext.ranges import WEIGHT, written

#: the smallest weight with which a route is drawn at all
LEAST = 1e-6


def check_weights(weights: Mapping[str, float], routes: Sequence[str]) -> dict[str, float]:
    """Return a weight for every route, 1 if none is given.

    Raises UserError for a route that does not exist, for a weight that is not a number of at least 0, and if no route
    is left to draw.
    """
    for name, weight in weights.items():
        if name not in routes:
            raise UserError(
                f'[danceopd.routes]: "{name}" is not a teacher.{nearest(name, routes)} Teachers: {", ".join(routes)}.'
            )
        number = isinstance(weight, int | float) and not isinstance(weight, bool)
        if not number or not weight >= WEIGHT.minimum:
            raise UserError(f"[danceopd.routes]: {name} = {weight!r} is wrong: expected a number of at least 0.")
        if wrong := WEIGHT.wrong(weight):
            raise UserError(f"[danceopd.routes]: {name} = {written(weight)}: {wrong}.")
        if 0 < weight < LEAST:
            raise UserError(
                f"[danceopd.routes]: {name} = {weight:g}: a route with so small a weight is never drawn. Write 0, or "
                f"{LEAST:g} or "
                "more."
            )
    complete = {name: float(weights.get(name, 1.0)) for name in routes}
    if not any(complete.values()):
        raise UserError(
            "[danceopd.routes]: all weights are 0, so no route can be drawn. Give at least one of them a weight."
        )
    return complete

"""Summarises the data of a route in one line."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from danceopd_ext.data.items import RouteData, Size


@dataclass(frozen=True)
class RouteSummary:
    """The data of a route.

    `share` is its weight's part of all weights, from 0 to 1: the expected part of the steps, or, with `every_route`, of
    each step's loss. `sources` counts its different source images.
    """

    route: str
    prompts: int
    items: int
    sizes: dict[Size, int]
    weight: float
    share: float
    every_route: bool = False
    sources: int = 0

    def __str__(self) -> str:
        sizes = ", ".join(f"{width}x{height} ({count})" for (width, height), count in sorted(self.sizes.items()))
        part = "each step's loss" if self.every_route else "the steps"
        edits = f", {self.sources} source images" if self.sources else ""
        return f"{self.route}: {self.share:.0%} of {part}, {self.prompts} prompts{edits}, {sizes or 'no data'}"


def summarise(data: RouteData, weight: float, share: float, every_route: bool = False) -> RouteSummary:
    """Count the prompts, sizes and source images of a route."""
    return RouteSummary(
        data.route,
        len({item.text for item in data.items}),
        len(data.items),
        dict(Counter(item.size for item in data.items)),
        weight,
        share,
        every_route,
        len({path for item in data.items for path in item.source_images}),
    )

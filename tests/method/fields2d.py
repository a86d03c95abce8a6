"""Two-dimensional fields whose rollouts are known in closed form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass
class Target:
    """A condition that is a point of the plane for each sample."""

    points: torch.Tensor

    def __len__(self) -> int:
        return len(self.points)

    def select(self, indices: Sequence[int]) -> Target:
        return Target(self.points[list(indices)])

    def unconditional(self) -> Target:
        return Target(torch.zeros_like(self.points))


def straight(z: torch.Tensor, sigma: torch.Tensor, condition: Target) -> torch.Tensor:
    """The straight flow to the point x: v = (z - x) / sigma; Euler steps follow it exactly."""
    return (z - condition.points) / sigma[:, None]


class Linear(torch.nn.Module):
    """v = z A + x B + sigma c: a student with a gradient that can be written down."""

    def __init__(self, seed: int):
        super().__init__()
        rng = torch.Generator().manual_seed(seed)
        self.A, self.B, self.c = (
            torch.nn.Parameter(torch.randn(shape, generator=rng) * 0.5) for shape in ((2, 2), (2, 2), (2,))
        )

    def forward(self, z: torch.Tensor, sigma: torch.Tensor, condition: Target) -> torch.Tensor:
        return z @ self.A + condition.points @ self.B + sigma[:, None] * self.c

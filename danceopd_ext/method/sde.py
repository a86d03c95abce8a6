"""Computes one step of Flow-OPD's stochastic sampler, its distribution, and a rollout with it.

A step goes from noise level sigma to sigma_next, dt = sigma_next - sigma < 0 (paper, baselines):
    s    = eta * sqrt(sigma / (1 - sigma))
    mean = z (1 + s^2 dt / (2 sigma)) + v (1 + s^2 (1 - sigma) / (2 sigma)) dt
    std  = s sqrt(-dt)
s has no value at sigma = 1; there, as in the release, 1 - sigma_next replaces 1 - sigma. At sigma_next = 0 nothing
diverges: the last step is stochastic like the others, in the release too.

Shape suffixes: G trajectories, N solver steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch

from danceopd_ext.method.fields import Condition, Field

#: sigma above which 1 - sigma is taken from the next point of the grid, and the least value of 1 - sigma
NEARLY_NOISE, LEAST = 0.9999, 1e-3


@dataclass(frozen=True)
class SdeStep:
    """The normal distribution of one step, by the formulas above.

    The numbers are those of one step, for all samples.
    """

    sigma: float
    sigma_next: float
    eta: float

    @property
    def dt(self) -> float:
        return self.sigma_next - self.sigma

    @property
    def s(self) -> float:
        """Return the strength of the noise."""
        clean = 1 - (self.sigma_next if self.sigma >= NEARLY_NOISE else self.sigma)
        return self.eta * math.sqrt(self.sigma / max(clean, LEAST))

    @property
    def std(self) -> float:
        return self.s * math.sqrt(-self.dt)

    def mean(self, z: torch.Tensor, velocity: torch.Tensor) -> torch.Tensor:
        """Return the expected next state, in float32."""
        return z.float() * (1 + self._drift * self.dt) + velocity.float() * self._pace

    @property
    def _drift(self) -> float:
        return self.s**2 / (2 * self.sigma)

    @property
    def _pace(self) -> float:
        """Return by how much the mean moves for a velocity of 1."""
        return (1 + self._drift * (1 - self.sigma)) * self.dt

    def log_probability(self, z_next: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
        """Return the log-density of z_next for a step with this mean, averaged over elements: [B]."""
        off = (z_next - mean) / self.std
        return (-(off**2) / 2 - math.log(self.std) - math.log(2 * math.pi) / 2).flatten(1).mean(dim=1)

    def divergence(self, mean_student: torch.Tensor, mean_teacher: torch.Tensor) -> torch.Tensor:
        """Return KL of student from teacher, |mean_student - mean_teacher|^2 / (2 s^2), averaged over elements: [B].

        As the paper and the release have it, with s^2, not with the variance s^2 (-dt) of the step.
        """
        return ((mean_student - mean_teacher) ** 2).flatten(1).mean(dim=1) / (2 * self.s**2)

    @property
    def divergence_weight(self) -> float:
        """Return the divergence of two velocities whose mean squared difference is 1."""
        return self._pace**2 / (2 * self.s**2)


def sde_steps(sigmas: torch.Tensor, eta: float) -> list[SdeStep]:
    """Return the steps of a sigma grid [N + 1]."""
    grid = [float(sigma) for sigma in sigmas]
    return [SdeStep(here, there, eta) for here, there in pairwise(grid)]


@torch.no_grad()
def sde_rollout(
    field: Field, noise: torch.Tensor, draws_GN: torch.Tensor, steps: list[SdeStep], condition: Condition
) -> torch.Tensor:
    """Return all states [G, N + 1, ...] of a stochastic rollout in float32; index N is the clean end.

    noise: [G, ...], pure noise. draws_GN: [G, N, ...], standard normal; each step adds its part, times its std.
    """
    states = [noise.float()]
    for n, step in enumerate(steps):
        z = states[-1]
        sigma = torch.full((len(z),), step.sigma, device=z.device)
        states.append(step.mean(z, field(z, sigma, condition)) + step.std * draws_GN[:, n].to(z))
    return torch.stack(states, dim=1)

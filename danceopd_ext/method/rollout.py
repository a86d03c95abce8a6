"""Runs the student's own sampler, no further than the queried states.

Shape suffixes: B samples, K queries, N solver steps.
"""

from __future__ import annotations

from typing import Literal

import torch

from danceopd_ext.method.fields import Condition, Field


def euler_step(latents: torch.Tensor, velocity: torch.Tensor, sigma: float, sigma_next: float) -> torch.Tensor:
    """Take one step of the Euler ODE solver on dz/dsigma = v, in float32."""
    return latents + (sigma_next - sigma) * velocity.float()


#: "euler": the paper's and the pipelines' solver, of first order. "ab2": Adams and Bashforth's, of second order: it
#: also uses the velocity of the step before, so a step still costs one forward
Solver = Literal["euler", "ab2"]


def extrapolated(velocity: torch.Tensor, before: torch.Tensor, width: float, width_before: float) -> torch.Tensor:
    """Return the velocity in the middle of the next step, from those at its start and at the start of the step before.

    `width` and `width_before`: the two steps' lengths in sigma. An Euler step with it is one of Adams and Bashforth.
    """
    return velocity + (velocity - before) * (width / (2 * width_before))


@torch.no_grad()
def rollout(
    field: Field,
    noise: torch.Tensor,
    sigmas: torch.Tensor,
    condition: Condition,
    query_BK: torch.Tensor,
    solver: Solver = "euler",
) -> torch.Tensor:
    """Integrate `field` from noise and return the states [B, K, ...] with indices `query_BK`.

    Index i is the state before solver step i, at `sigmas[i]`; index N is the clean end. A sample leaves the batch as
    soon as its last query is reached, so a sample with last query q costs q forwards instead of N; its states are the
    same as in a full rollout. Latents stay float32 between steps, whatever dtype the field computes in.

    noise: [B, ...], pure noise at sigmas[0]. sigmas: [N + 1], falling to 0. query_BK: [B, K] integers in 0..N.
    """
    steps = [float(s) for s in sigmas]
    queries = query_BK.tolist()
    last = [max(q) for q in queries]
    latents = noise.float()
    states = latents.new_empty(query_BK.shape + noise.shape[1:])
    active = list(range(len(noise)))
    before = None
    for i in range(max(last) + 1):
        for row, sample in enumerate(active):
            for k, q in enumerate(queries[sample]):
                if q == i:
                    states[sample, k] = latents[row]
        stays = [row for row, sample in enumerate(active) if last[sample] > i]
        if not stays:
            break
        if len(stays) < len(active):
            active = [active[row] for row in stays]
            latents = latents[stays]
            before = before[stays] if before is not None else None
            condition = condition.select(stays)
        sigma_B = torch.full((len(active),), steps[i], device=latents.device)
        velocity = field(latents, sigma_B, condition).float()
        middle = velocity
        if before is not None:
            middle = extrapolated(velocity, before, steps[i] - steps[i + 1], steps[i - 1] - steps[i])
        latents = euler_step(latents, middle, steps[i], steps[i + 1])
        before = velocity if solver == "ab2" else None
    return states

"""Runs the student's own sampler, no further than the queried states.

Shape suffixes: B samples, K queries, N solver steps.
"""

from __future__ import annotations

import torch

from danceopd_ext.method.fields import Condition, Field


def euler_step(latents: torch.Tensor, velocity: torch.Tensor, sigma: float, sigma_next: float) -> torch.Tensor:
    """Take one step of the Euler ODE solver on dz/dsigma = v, in float32."""
    return latents + (sigma_next - sigma) * velocity.float()


@torch.no_grad()
def rollout(
    field: Field, noise: torch.Tensor, sigmas: torch.Tensor, condition: Condition, query_BK: torch.Tensor
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
            condition = condition.select(stays)
        sigma_B = torch.full((len(active),), steps[i], device=latents.device)
        latents = euler_step(latents, field(latents, sigma_B, condition), steps[i], steps[i + 1])
    return states

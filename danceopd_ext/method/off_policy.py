"""Implements off-policy distillation, a baseline of the paper: on states that the student did not visit.

The state is a clean endpoint with noise added, not a point of the student's own rollout. The endpoint is the sample's
clean latents (the picture of its data) if it has them, otherwise a random one. The authors' release makes the states in
the same way, but draws fresh noise for each query of a sample; here a sample's queries lie on one straight line.
"""

from __future__ import annotations

import torch

from danceopd_ext.method.fields import CountedField, Field
from danceopd_ext.method.query import draw_query_indices
from danceopd_ext.method.randomness import sample_noise
from danceopd_ext.method.records import Batch, Outcome, Step, Student
from danceopd_ext.method.update import ask, match


def off_policy(step: Step, batch: Batch, teacher: Field, student: Student, share: float = 1.0) -> Outcome:
    """The objective (see Objective): steps 3 to 5 of DanceOPD at z = (1 - sigma) endpoint + sigma noise."""
    asked, learner = CountedField(teacher), CountedField(student.field)
    noise = sample_noise(step.seed, step.number, batch.indices, batch.latent_shape).to(step.device)
    query_BK = draw_query_indices(
        step.options.query, step.options.num_queries, step.options.rollout_steps,
        seed=step.seed, step=step.number, indices=batch.indices, total=batch.total,
    )  # fmt: skip
    sigma_BK = batch.sigmas[query_BK].to(noise)
    z_BK = forward_noised(endpoints(batch, step.seed, step.number).to(step.device), noise, sigma_BK)
    with step.stage("teacher"):
        target_BK = ask(asked, z_BK, sigma_BK, batch)
    weight_BK = torch.full(sigma_BK.shape, share / sigma_BK.shape[1])
    with step.stage("match"):
        loss_BK = match(learner, z_BK, sigma_BK, target_BK, batch, student.backward, weight_BK)
    return Outcome(
        loss_B=loss_BK.mean(dim=1),
        sigma_BK=sigma_BK.cpu(),
        rollout_forwards=0,
        teacher_forwards=asked.samples,
        student_forwards=learner.samples,
    )


def endpoints(batch: Batch, seed: int, step: int) -> torch.Tensor:
    """Return the clean ends [B, ...] in float32: each sample's clean latents, otherwise standard normal numbers."""
    drawn = sample_noise(seed, step, batch.indices, batch.latent_shape, "endpoint")
    for row, target in enumerate(batch.clean_latents):
        if target is not None:
            drawn[row] = target.float()
    return drawn


def forward_noised(clean: torch.Tensor, noise: torch.Tensor, sigma_BK: torch.Tensor) -> torch.Tensor:
    """Return the states [B, K, ...] on the straight line from each clean end to its noise, at noise levels 0..1."""
    sigma = sigma_BK.view(*sigma_BK.shape, *[1] * (clean.ndim - 1))
    return (1 - sigma) * clean.unsqueeze(1) + sigma * noise.unsqueeze(1)

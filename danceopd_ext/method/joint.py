"""Implements joint training, a baseline of the paper: supervised flow matching on the mixed data, without a teacher.

The release does not contain it. The data are those of DanceOPD in the same order: a drawn route in each step. Noise
levels are drawn evenly along the model's own sigma grid, also between its points, so they have the density of its
sampler.
"""

from __future__ import annotations

import torch

from danceopd_ext.method.fields import CountedField, Field
from danceopd_ext.method.off_policy import forward_noised
from danceopd_ext.method.randomness import generator, sample_noise
from danceopd_ext.method.records import Batch, Outcome, Step, Student
from danceopd_ext.method.update import match


def joint(step: Step, batch: Batch, teacher: Field, student: Student, share: float = 1.0) -> Outcome:
    """The objective (see Objective): the velocity at (1 - sigma) x + sigma noise should be noise - x.

    x is the sample's clean latents; one noise level is drawn for each sample. The teacher is not queried. Raises
    ValueError for a sample without clean latents.
    """
    if len(batch.clean_latents) < len(batch.indices) or any(target is None for target in batch.clean_latents):
        raise ValueError("joint training needs the clean latents of every sample")
    learner = CountedField(student.field)
    noise = sample_noise(step.seed, step.number, batch.indices, batch.latent_shape).to(step.device)
    clean = torch.stack([target.float() for target in batch.clean_latents]).to(step.device)
    sigma_BK = draw_sigmas(batch, step.seed, step.number).unsqueeze(1).to(noise)
    z_BK = forward_noised(clean, noise, sigma_BK)
    target_BK, weight_BK = (noise - clean).unsqueeze(1), torch.full(sigma_BK.shape, share)
    with step.stage("match"):
        loss_BK = match(learner, z_BK, sigma_BK, target_BK, batch, student.backward, weight_BK)
    return Outcome(
        loss_B=loss_BK[:, 0],
        sigma_BK=sigma_BK.cpu(),
        rollout_forwards=0,
        teacher_forwards=0,
        student_forwards=learner.samples,
    )


def draw_sigmas(batch: Batch, seed: int, step: int) -> torch.Tensor:
    """Return a noise level [B] in (0, 1] per sample: the grid at an evenly drawn place, linear between its points."""
    steps = len(batch.sigmas) - 1
    drawn = [float(torch.rand((), generator=generator(seed, "sigma", step, i))) * steps for i in batch.indices]
    low = [min(int(place), steps - 1) for place in drawn]
    part = torch.tensor([place - i for place, i in zip(drawn, low, strict=True)])
    return batch.sigmas[low] + part * (batch.sigmas[[i + 1 for i in low]] - batch.sigmas[low])

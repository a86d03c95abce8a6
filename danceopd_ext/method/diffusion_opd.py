"""Implements DiffusionOPD, a baseline of the paper: it queries every state of the student's rollout, for all routes.

A solver step of length dt moves student and teacher to means that lie dt * |v_student - v_teacher| apart; the weight
dt^2 / 2 of a state is that of the divergence of two such steps. The release uses 1 / N for dt, as on an even grid; here
dt is the step of the model's own grid, which is uneven if the grid is shifted.
"""

from __future__ import annotations

import torch

from danceopd_ext.method.fields import CountedField, Field
from danceopd_ext.method.randomness import sample_noise
from danceopd_ext.method.records import Batch, Outcome, Step, Student
from danceopd_ext.method.update import ask, match, roll_out_in_chunks


def diffusion_opd(step: Step, batch: Batch, teacher: Field, student: Student, share: float = 1.0) -> Outcome:
    """The objective (see Objective): the sum over all N states of dt^2 / 2 times the velocities' mean squared error."""
    rolling, asked, learner = CountedField(student.field), CountedField(teacher), CountedField(student.field)
    noise = sample_noise(step.seed, step.number, batch.indices, batch.latent_shape).to(step.device)
    every_BK = torch.arange(step.options.rollout_steps).expand(len(batch.indices), -1)
    with step.stage("rollout"):
        z_BK = roll_out_in_chunks(step.options, rolling, noise, batch, every_BK)
    sigma_BK = batch.sigmas[every_BK].to(z_BK)
    with step.stage("teacher"):
        target_BK = ask(asked, z_BK, sigma_BK, batch)
    weight_BK = (batch.sigmas.diff() ** 2 / 2).cpu().expand(sigma_BK.shape)
    with step.stage("match"):
        loss_BK = match(learner, z_BK, sigma_BK, target_BK, batch, student.backward, share * weight_BK)
    loss_B = (loss_BK * weight_BK).sum(dim=1)
    return Outcome(
        loss_B=loss_B,
        sigma_BK=sigma_BK.cpu(),
        rollout_forwards=rolling.samples,
        teacher_forwards=asked.samples,
        student_forwards=learner.samples,
    )

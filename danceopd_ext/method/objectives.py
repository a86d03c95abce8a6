"""Implements other objectives at the same queried state: the paper's ablation of step 5, where plain MSE is best.

The paper names them without formulas; these are the usual formulas in terms of velocities. At a state z of the
student's own rollout, at noise level sigma, a velocity v implies the clean picture x = z - sigma v. Each objective is a
target velocity and a weight, so that its gradient is that of weight * |v_student - target|^2:

- timestep: the teacher's velocity, weighted by sigma^2: the error of the implied clean pictures
- kl: the teacher's velocity, weighted by how far a stochastic step with it diverges (see sde)
- sds (score distillation): the student's clean picture is noised again, and the teacher predicts the clean picture
  from that
- dmd (distribution matching): the same, minus the student's own prediction from the noised picture: the errors of
  predicting from a noised picture cancel. The student replaces the model of its own drawings that others train as well
- consistency: the clean picture that the student implies one step of the teacher later

The last three are errors of clean pictures too, so their weight is sigma^2. Shape suffixes: B samples, K queries.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from danceopd_ext.method.fields import CountedField, Field
from danceopd_ext.method.joint import draw_sigmas
from danceopd_ext.method.randomness import sample_noise
from danceopd_ext.method.records import Batch, Objective, Outcome, Step, Student
from danceopd_ext.method.sde import SdeStep
from danceopd_ext.method.update import ask, match, query_rollout


@dataclass(frozen=True)
class States:
    """The queried states [B, K, ...] of a batch, and the two fields without gradients."""

    z_BK: torch.Tensor
    sigma_BK: torch.Tensor
    next_BK: torch.Tensor
    """the noise level after the next solver step, [B, K]"""
    batch: Batch
    student: Field
    teacher: Field
    eta: float
    noise_B: torch.Tensor
    """fresh, for objectives that noise a picture again"""
    noised_B: torch.Tensor
    """the noise level to which they noise it"""

    def implied(self, field: Field, z_BK: torch.Tensor, sigma_BK: torch.Tensor) -> torch.Tensor:
        """Return the clean pictures that a field's velocities imply."""
        return z_BK - wide(sigma_BK, z_BK) * ask(field, z_BK, sigma_BK, self.batch)

    def noised(self, clean_BK: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return clean pictures with fresh noise, and its level."""
        level_BK = self.noised_B.unsqueeze(1).expand_as(self.sigma_BK)
        level = wide(level_BK, clean_BK)
        return (1 - level) * clean_BK + level * self.noise_B.unsqueeze(1), level_BK

    def towards(self, clean_BK: torch.Tensor) -> torch.Tensor:
        """Return the velocity that implies these clean pictures."""
        return (self.z_BK - clean_BK) / wide(self.sigma_BK, clean_BK)


#: the target velocities [B, K, ...] and the weights [B, K]
Rule = Callable[[States], tuple[torch.Tensor, torch.Tensor]]


def timestep(states: States) -> tuple[torch.Tensor, torch.Tensor]:
    """sigma^2 |v_student(z, sigma) - v_teacher(z, sigma)|^2.

    It is |x_student - x_teacher|^2, the error of the clean pictures that the two velocities imply.
    """
    return ask(states.teacher, states.z_BK, states.sigma_BK, states.batch), states.sigma_BK**2


def kl(states: States) -> tuple[torch.Tensor, torch.Tensor]:
    """KL(p_student || p_teacher) of the next stochastic step: |mean_student - mean_teacher|^2 / (2 s^2).

    With the mean of `sde` that is |v_student - v_teacher|^2 times (1 + s^2 (1 - sigma) / (2 sigma))^2 dt^2 / (2 s^2).
    """
    weights = [
        [SdeStep(sigma, after, states.eta).divergence_weight for sigma, after in zip(row, later, strict=True)]
        for row, later in zip(states.sigma_BK.tolist(), states.next_BK.tolist(), strict=True)
    ]
    return ask(states.teacher, states.z_BK, states.sigma_BK, states.batch), torch.tensor(weights).to(states.sigma_BK)


def sds(states: States) -> tuple[torch.Tensor, torch.Tensor]:
    """|x_student - x_teacher(z')|^2 with z' = (1 - sigma') x_student + sigma' noise, where x_teacher is constant.

    x_teacher(z') = z' - sigma' v_teacher(z', sigma'); sigma' and the noise are drawn for each sample.
    """
    noised = states.noised(states.implied(states.student, states.z_BK, states.sigma_BK))
    return states.towards(states.implied(states.teacher, *noised)), states.sigma_BK**2


def dmd(states: States) -> tuple[torch.Tensor, torch.Tensor]:
    """|x_student - target|^2 with the constant target x_student + x_teacher(z') - x_student(z').

    z' is x_student with noise, as in `sds`. Both fields predict from the same noised picture, so their common error
    cancels.
    """
    clean_BK = states.implied(states.student, states.z_BK, states.sigma_BK)
    noised = states.noised(clean_BK)
    correction = states.implied(states.teacher, *noised) - states.implied(states.student, *noised)
    return states.towards(clean_BK + correction), states.sigma_BK**2


def consistency(states: States) -> tuple[torch.Tensor, torch.Tensor]:
    """|x_student(z, sigma) - x_student(z_next, sigma_next)|^2, where the second is constant.

    z_next = z + (sigma_next - sigma) v_teacher(z, sigma), one solver step of the teacher; at sigma_next = 0 the clean
    picture is z_next itself.
    """
    velocity_BK = ask(states.teacher, states.z_BK, states.sigma_BK, states.batch)
    later_BK = states.z_BK + wide(states.next_BK - states.sigma_BK, velocity_BK) * velocity_BK
    implied_BK = states.implied(states.student, later_BK, states.next_BK)
    clean_BK = torch.where(wide(states.next_BK, later_BK) == 0, later_BK, implied_BK)  # the end is already clean
    return states.towards(clean_BK), states.sigma_BK**2


RULES: dict[str, Rule] = {"timestep": timestep, "kl": kl, "sds": sds, "dmd": dmd, "consistency": consistency}


def objective(rule: Rule) -> Objective:
    """DanceOPD with another target and weight in steps 4 and 5 (see update.distil)."""

    def distil_by_rule(step: Step, batch: Batch, teacher: Field, student: Student, share: float = 1.0) -> Outcome:
        rolling, asked, learner = CountedField(student.field), CountedField(teacher), CountedField(student.field)
        with step.stage("rollout"):
            query_BK, z_BK = query_rollout(step, batch, rolling)
        sigma_BK, next_BK = batch.sigmas[query_BK].to(z_BK), batch.sigmas[query_BK + 1].to(z_BK)
        noise = sample_noise(step.seed, step.number, batch.indices, batch.latent_shape, "renoise").to(z_BK)
        noised = draw_sigmas(batch, step.seed, step.number).to(z_BK)
        states = States(z_BK, sigma_BK, next_BK, batch, rolling, asked, step.options.sde_eta, noise, noised)
        with step.stage("teacher"):
            target_BK, weight_BK = rule(states)
        weight_BK = weight_BK / query_BK.shape[1]
        with step.stage("match"):
            loss_BK = match(learner, z_BK, sigma_BK, target_BK, batch, student.backward, share * weight_BK)
        loss_B = (loss_BK * weight_BK.cpu()).sum(dim=1)
        return Outcome(
            loss_B=loss_B,
            sigma_BK=sigma_BK.cpu(),
            rollout_forwards=rolling.samples,
            teacher_forwards=asked.samples,
            student_forwards=learner.samples,
        )

    return distil_by_rule


def wide(numbers_BK: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """[B, K] as a factor of [B, K, ...]."""
    return numbers_BK.view(*numbers_BK.shape, *[1] * (like.ndim - 2))

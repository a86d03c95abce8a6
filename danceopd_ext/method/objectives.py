"""Other objectives at the same queried state: the paper's ablation of step 5, where the plain mean squared error wins.

The paper names them without formulas; these are the usual ones in terms of velocities. At a state z of the student's
own rollout, at noise level sigma, a velocity v implies the clean picture x = z - sigma v. Each objective is a target
velocity and a weight, so that its gradient is that of weight * |v_student - target|^2:

- timestep: the teacher's velocity, weighted by sigma^2: the error of the clean pictures that the two imply
- kl: the teacher's velocity, weighted by how far a stochastic step with it diverges (see sde)
- sds (score distillation): the student's clean picture is noised again, and the teacher says what it should have been
- dmd (distribution matching): the same, but less what the student itself would make of the noised picture: both errors
  of judging from a noised picture cancel. The student stands for the model of its own drawings that is trained beside
  it elsewhere
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
from danceopd_ext.method.records import Backward, Batch, Method, Objective, Outcome
from danceopd_ext.method.sde import SdeStep
from danceopd_ext.method.update import ask, match, query_rollout


@dataclass(frozen=True)
class States:
    """The queried states [B, K, ...] of a batch, and the two fields, both without gradients."""

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
    """the noise level that they noise it to"""

    def implied(self, field: Field, z_BK: torch.Tensor, sigma_BK: torch.Tensor) -> torch.Tensor:
        """The clean pictures that a field's velocities imply."""
        return z_BK - wide(sigma_BK, z_BK) * ask(field, z_BK, sigma_BK, self.batch)

    def noised(self, clean_BK: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Clean pictures with fresh noise, and the level of it."""
        level_BK = self.noised_B.unsqueeze(1).expand_as(self.sigma_BK)
        level = wide(level_BK, clean_BK)
        return (1 - level) * clean_BK + level * self.noise_B.unsqueeze(1), level_BK

    def towards(self, clean_BK: torch.Tensor) -> torch.Tensor:
        """The velocity that implies these clean pictures."""
        return (self.z_BK - clean_BK) / wide(self.sigma_BK, clean_BK)


#: the target velocities [B, K, ...] and the weights [B, K]
Rule = Callable[[States], tuple[torch.Tensor, torch.Tensor]]


def timestep(states: States) -> tuple[torch.Tensor, torch.Tensor]:
    return ask(states.teacher, states.z_BK, states.sigma_BK, states.batch), states.sigma_BK**2


def kl(states: States) -> tuple[torch.Tensor, torch.Tensor]:
    weights = [
        [SdeStep(sigma, after, states.eta).divergence_weight for sigma, after in zip(row, later, strict=True)]
        for row, later in zip(states.sigma_BK.tolist(), states.next_BK.tolist(), strict=True)
    ]
    return ask(states.teacher, states.z_BK, states.sigma_BK, states.batch), torch.tensor(weights).to(states.sigma_BK)


def sds(states: States) -> tuple[torch.Tensor, torch.Tensor]:
    noised = states.noised(states.implied(states.student, states.z_BK, states.sigma_BK))
    return states.towards(states.implied(states.teacher, *noised)), states.sigma_BK**2


def dmd(states: States) -> tuple[torch.Tensor, torch.Tensor]:
    clean_BK = states.implied(states.student, states.z_BK, states.sigma_BK)
    noised = states.noised(clean_BK)
    correction = states.implied(states.teacher, *noised) - states.implied(states.student, *noised)
    return states.towards(clean_BK + correction), states.sigma_BK**2


def consistency(states: States) -> tuple[torch.Tensor, torch.Tensor]:
    velocity_BK = ask(states.teacher, states.z_BK, states.sigma_BK, states.batch)
    later_BK = states.z_BK + wide(states.next_BK - states.sigma_BK, velocity_BK) * velocity_BK
    implied_BK = states.implied(states.student, later_BK, states.next_BK)
    clean_BK = torch.where(wide(states.next_BK, later_BK) == 0, later_BK, implied_BK)  # the end is clean already
    return states.towards(clean_BK), states.sigma_BK**2


RULES: dict[str, Rule] = {"timestep": timestep, "kl": kl, "sds": sds, "dmd": dmd, "consistency": consistency}


def objective(rule: Rule) -> Objective:
    """DanceOPD with another target and weight in steps 4 and 5 (see update.distil)."""

    def distil_by_rule(
        method: Method,
        step: int,
        seed: int,
        batch: Batch,
        teacher: Field,
        student: Field,
        backward: Backward,
        share: float = 1.0,
        device: torch.device | str = "cpu",
    ) -> Outcome:
        rolling, asked, learner = CountedField(student), CountedField(teacher), CountedField(student)
        query_BK, z_BK = query_rollout(method, step, seed, batch, rolling, device)
        sigma_BK, next_BK = batch.sigmas[query_BK].to(z_BK), batch.sigmas[query_BK + 1].to(z_BK)
        noise = sample_noise(seed, step, batch.indices, batch.latent_shape, "renoise").to(z_BK)
        noised = draw_sigmas(batch, seed, step).to(z_BK)
        states = States(z_BK, sigma_BK, next_BK, batch, rolling, asked, method.sde_eta, noise, noised)
        target_BK, weight_BK = rule(states)
        weight_BK = weight_BK / query_BK.shape[1]
        loss_BK = match(learner, z_BK, sigma_BK, target_BK, batch, backward, share * weight_BK)
        loss_B = (loss_BK * weight_BK.cpu()).sum(dim=1)
        return Outcome(loss_B, sigma_BK.cpu(), rolling.samples, asked.samples, learner.samples)

    return distil_by_rule


def wide(numbers_BK: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """[B, K] as a factor of [B, K, ...]."""
    return numbers_BK.view(*numbers_BK.shape, *[1] * (like.ndim - 2))

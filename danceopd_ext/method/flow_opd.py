"""Implements Flow-OPD, a baseline of the paper: policy gradient on stochastic rollouts, rewarded for teacher agreement.

Each condition gets a group of trajectories. A transition's reward is minus the divergence between the student's and
the teacher's step (see sde); its advantage is the reward less the mean of its group at the same step. PPO's clipped
loss follows.

Where this differs from the authors' release: the release takes the reward itself as advantage, without the group's
mean, and holds it constant. A constant reward that depends only on the state before a step carries no information about
the step, and its expected gradient is zero. Flow-OPD's own authors let the gradient pass through the reward, and so do
we; the group's mean is held constant. The release also puts all routes into each step; here, as the paper's
method is stated, a step has one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

import torch

from danceopd_ext.method.chunks import run_in_chunks
from danceopd_ext.method.fields import CountedField, Field
from danceopd_ext.method.randomness import generator
from danceopd_ext.method.records import Batch, MethodOptions, Outcome, Step, Student
from danceopd_ext.method.sde import SdeStep, sde_rollout, sde_steps
from danceopd_ext.method.update import ask, pieces


def flow_opd(step: Step, batch: Batch, teacher: Field, student: Student, share: float = 1.0) -> Outcome:
    """The objective (see Objective): the mean PPO loss of all transitions of all groups.

    The reported loss is the mean divergence: PPO's loss is about zero however far the student is from its teacher.
    """
    rolling, asked, learner = CountedField(student.field), CountedField(teacher), CountedField(student.field)
    count = len(batch.indices)
    rows = [row for row in range(count) for _ in range(step.options.flowopd_group_size)]
    groups = replace(batch, condition=batch.condition.select(rows), indices=[batch.indices[row] for row in rows])
    played = play(step, groups, rolling, asked)
    with step.stage("match"):
        divergence_GN = learn(step.options, played, Student(field=learner, backward=student.backward), share)
    sigma_BK = batch.sigmas[:-1].expand(count, -1)
    loss_B = divergence_GN.view(count, -1).mean(dim=1)
    return Outcome(
        loss_B=loss_B,
        sigma_BK=sigma_BK,
        rollout_forwards=rolling.samples,
        teacher_forwards=asked.samples,
        student_forwards=learner.samples,
    )


@dataclass(frozen=True)
class Played:
    """Trajectories: states [G, N + 1, ...], the noise of each step and the teacher's velocities [G, N, ...].

    Those of a group are adjacent in `groups`, `group_size` for each condition.
    """

    groups: Batch
    group_size: int
    steps: list[SdeStep]
    states_GN: torch.Tensor
    draws_GN: torch.Tensor
    teacher_GN: torch.Tensor

    def baseline(self, n: int) -> torch.Tensor:
        """Return the mean reward of each trajectory's group in step n [G], for the student that rolled out."""
        step, z, z_next = self.steps[n], self.states_GN[:, n], self.states_GN[:, n + 1]
        mean = z_next - step.std * self.draws_GN[:, n]
        reward_G = -step.divergence(mean, step.mean(z, self.teacher_GN[:, n]))
        return reward_G.view(-1, self.group_size).mean(dim=1).repeat_interleave(self.group_size)

    def old_log_probability(self, rows: list[int], n: int) -> torch.Tensor:
        """Return this for step n of these trajectories, for the student that rolled out."""
        drawn = self.steps[n].std * self.draws_GN[rows, n]
        return self.steps[n].log_probability(drawn, torch.zeros_like(drawn))


def play(step: Step, groups: Batch, student: Field, teacher: Field) -> Played:
    """Roll out groups (each condition many times), and query the teacher at every state but the last."""
    size = step.options.flowopd_group_size
    steps = sde_steps(groups.sigmas, step.options.sde_eta)
    drawn = trajectory_noise(step.seed, step.number, groups, size, len(steps))
    noise, draws_GN = (part.to(step.device) for part in drawn)

    def roll(rows: list[int]) -> torch.Tensor:
        return sde_rollout(student, noise[rows], draws_GN[rows], steps, groups.condition.select(rows))

    with step.stage("rollout"):
        states_GN = run_in_chunks(roll, len(noise), step.options.rollout_batch_size)
    sigma_GN = groups.sigmas[:-1].to(noise).expand(len(noise), -1)
    with step.stage("teacher"):
        teacher_GN = ask(teacher, states_GN[:, :-1], sigma_GN, groups)
    return Played(groups, size, steps, states_GN, draws_GN, teacher_GN)


def learn(options: MethodOptions, played: Played, student: Student, share: float) -> torch.Tensor:
    """Add the gradient of `share` times the mean PPO loss of the transitions; return their divergences [G, N]."""
    steps, groups = played.steps, played.groups
    baselines = [played.baseline(n) for n in range(len(steps))]
    divergence_GN = torch.zeros(len(groups.indices), len(steps))
    # a piece has states of one solver step, which has its own coefficients
    for (rows, _), n in product(pieces(groups, 1), range(len(steps))):
        solver_step, z, z_next = steps[n], played.states_GN[rows, n], played.states_GN[rows, n + 1]
        sigma = torch.full((len(rows),), solver_step.sigma, device=z.device)
        mean = solver_step.mean(z, student.field(z, sigma, groups.condition.select(rows)))
        divergence_R = solver_step.divergence(mean, solver_step.mean(z, played.teacher_GN[rows, n]))
        advantage_R = (-divergence_R - baselines[n][rows]).clamp(-options.advantage_clip, options.advantage_clip)
        log_p_R = solver_step.log_probability(z_next, mean)
        loss_R = ppo_loss(log_p_R, played.old_log_probability(rows, n), advantage_R, options.ppo_clip)
        student.backward(loss_R.sum() * (share / divergence_GN.numel()))
        divergence_GN[rows, n] = divergence_R.detach().cpu()
    return divergence_GN


def trajectory_noise(
    seed: int, step: int, groups: Batch, group_size: int, solver_steps: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return each trajectory's first state [G, ...] and its steps' noise [G, N, ...]: standard normal, on the CPU."""
    rngs = [generator(seed, "trajectory", step, index, g % group_size) for g, index in enumerate(groups.indices)]
    everything = torch.stack([torch.randn((solver_steps + 1, *groups.latent_shape), generator=rng) for rng in rngs])
    return everything[:, 0], everything[:, 1:]


def ppo_loss(log_p: torch.Tensor, old_log_p: torch.Tensor, advantage: torch.Tensor, clip: float) -> torch.Tensor:
    """Return each transition's PPO loss: the worse of -advantage * ratio with the ratio free and kept in 1 +- clip."""
    ratio = torch.exp(log_p - old_log_p)
    return torch.maximum(-advantage * ratio, -advantage * ratio.clamp(1 - clip, 1 + clip))

"""Defines the inputs and outputs of an update, for all methods.

Shape suffixes: B samples of a batch, K queries a sample, N solver steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import torch

from danceopd_ext.method.fields import Condition, Field
from danceopd_ext.method.rollout import Solver

#: takes a loss and adds its gradient to the student's
Backward = Callable[[torch.Tensor], None]

#: "rollout", "teacher" or "match" -> the context in which that stage of an update runs, for measurements
Stage = Callable[[str], AbstractContextManager]


def unmeasured(_stage: str) -> AbstractContextManager:
    """Run a stage without measuring it."""
    return nullcontext()


@dataclass(frozen=True, kw_only=True)
class MethodOptions:
    """The options of every method; the defaults are the paper's."""

    rollout_steps: int = 16
    rollout_solver: Solver = "euler"
    query: str = "low_noise"
    num_queries: int = 1
    early_stop: bool = True
    """Whether a rollout ends at its last queried state; if not, it continues to the clean end without effect."""
    rollout_batch_size: int | None = None
    """Samples that roll out together; None takes all samples of the step (halved when memory runs out)."""
    flowopd_group_size: int = 16
    """Flow-OPD: trajectories of each condition."""
    sde_eta: float = 0.7
    """Flow-OPD: noise level of the stochastic rollout; above 0."""
    ppo_clip: float = 1e-4
    """Flow-OPD: how far the probability ratio may go from 1."""
    advantage_clip: float = 5.0
    """Flow-OPD: largest advantage."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One optimizer step: how the method runs, and the seed of all its random numbers.

    `number`: counted from 0 over the whole run. `device`: of the latents. `stage`: the context of each stage.
    """

    options: MethodOptions
    seed: int
    number: int
    device: torch.device | str = "cpu"
    stage: Stage = unmeasured


@dataclass(frozen=True, kw_only=True)
class Student:
    """The field that is trained, and what takes its losses.

    `backward(loss)` is called once for each piece of the gradient pass, right after the student's forward.
    """

    field: Field
    backward: Backward


@dataclass
class Batch:
    """Samples of one step that share a latent shape and a sigma grid.

    `indices`: the samples' places among all `total` samples of the step, over all processes and micro-batches.
    `latent_shape`: without the batch axis. `sigmas`: [N + 1], from 1 (pure noise) to 0 (clean).
    `match_batch_size`: states that hold activations together in the gradient pass.
    `clean_latents`: each sample's clean latents on the CPU, None if it has none; empty if the method uses none.
    """

    condition: Condition
    indices: list[int]
    total: int
    latent_shape: tuple[int, ...]
    sigmas: torch.Tensor
    match_batch_size: int
    clean_latents: Sequence[torch.Tensor | None] = ()


@dataclass(frozen=True, kw_only=True)
class Report:
    """What an update did. Losses are means over elements; forwards count samples through the transformer.

    `route`: the drawn one, or all of the step's, joined by " + ".
    """

    route: str
    loss: float
    samples: int
    mean_query_sigma: float
    rollout_forwards: int
    teacher_forwards: int
    student_forwards: int

    @property
    def forwards(self) -> int:
        """Return all forwards of the update; those of the student's gradient pass also have a backward."""
        return self.rollout_forwards + self.teacher_forwards + self.student_forwards


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The outcome of one batch. `loss_B`: each sample's loss, the mean over its elements and queries, on the CPU."""

    loss_B: torch.Tensor
    sigma_BK: torch.Tensor
    rollout_forwards: int
    teacher_forwards: int
    student_forwards: int


class Objective(Protocol):
    """What a method does with one batch whose route is known: add its gradient, and say what came of it.

    The gradient is that of `share` times the mean loss of the batch's samples.
    """

    def __call__(self, step: Step, batch: Batch, teacher: Field, student: Student, share: float = 1.0) -> Outcome: ...

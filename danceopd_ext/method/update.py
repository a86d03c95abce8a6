"""Computes one update of DanceOPD: the five steps of the paper, in order.

The paper's symbols and their names here:

| paper | here | what it is |
|---|---|---|
| v_theta | `Student.field` | the velocity of the student |
| v_1 ... v_M | `teachers`, by the name of their route | the velocities of the frozen teachers |
| m | `route` | the teacher of a step, drawn by weight |
| c | `Batch.condition` | text, and source images of an edit |
| t | `sigma`, from `Batch.sigmas` | noise level: 1 is pure noise, 0 is clean |
| z, z_t | `noise` at 1, `z_BK` where queried | latents on the student's own trajectory |
| N | `MethodOptions.rollout_steps` | steps of the solver |
| K | `MethodOptions.num_queries` | queried states of a trajectory |
| u ~ Beta(5, 2) | `MethodOptions.query` = "low_noise" | where on the trajectory; `query_BK` = floor(u N) |
| sg(z_t) | `z_BK`, made under `torch.no_grad` | no gradient flows through the solver |
| v_m(z, t, c) | `target_BK`, made by `ask` | what the student should predict there |
| alpha | `guidance_scale` of `fields.guided` | guidance of a teacher |
| beta | `student_guidance_scale` of a preset | guidance that the student will be used with |

Shape suffixes: B samples of a batch, K queries a sample, N solver steps.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from danceopd_ext.method.accumulate import Data, accumulate, report
from danceopd_ext.method.chunks import run_in_chunks
from danceopd_ext.method.fields import CountedField, Field
from danceopd_ext.method.query import draw_query_indices
from danceopd_ext.method.randomness import sample_noise
from danceopd_ext.method.records import Backward, Batch, MethodOptions, Outcome, Report, Step, Student
from danceopd_ext.method.rollout import rollout
from danceopd_ext.method.routing import draw_route


def velocity_mse(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Return the plain mean squared error of two velocities in float32, for each sample: [B]."""
    return torch.nn.functional.mse_loss(student.float(), teacher.float(), reduction="none").flatten(1).mean(dim=1)


def update(
    step: Step, routes: Mapping[str, float], data: Data, teachers: Mapping[str, Field], student: Student
) -> Report:
    """Accumulate the gradient of one optimizer step and report it.

    `data(route, step.number)` returns this process's samples of the step. The losses passed to `student.backward` add
    up to the mean over this process's samples.
    """
    # 1. Route: draw one teacher, and conditions from that teacher's own data only.
    route = draw_route(routes, step.seed, step.number)
    outcomes = accumulate(distil, step, data(route, step.number), teachers[route], student)
    return report({route: (1.0, outcomes)})


def distil(step: Step, batch: Batch, teacher: Field, student: Student, share: float = 1.0) -> Outcome:
    """Do steps 2 to 5 for samples whose route is known; `share` weights their mean loss.

    A trainer that reads its data before it knows the route calls this alone, with `by_route` as the teacher.
    """
    rolling, asked, learner = CountedField(student.field), CountedField(teacher), CountedField(student.field)

    # 2. Roll out the current student from fresh noise,
    # 3. and query one state (or K) of its trajectory; the rollout stops there. No gradient flows through it.
    with step.stage("rollout"):
        query_BK, z_BK = query_rollout(step, batch, rolling)
    sigma_BK = batch.sigmas[query_BK].to(z_BK)

    # 4. Query the teacher's velocity there.
    with step.stage("teacher"):
        target_BK = ask(asked, z_BK, sigma_BK, batch)

    # 5. Match: the student's velocity at the same state, plain MSE, gradient into the student only.
    weight_BK = torch.full(sigma_BK.shape, share / sigma_BK.shape[1])
    with step.stage("match"):
        loss_BK = match(learner, z_BK, sigma_BK, target_BK, batch, student.backward, weight_BK)
    return Outcome(
        loss_B=loss_BK.mean(dim=1),
        sigma_BK=sigma_BK.cpu(),
        rollout_forwards=rolling.samples,
        teacher_forwards=asked.samples,
        student_forwards=learner.samples,
    )


def query_rollout(step: Step, batch: Batch, student: Field) -> tuple[torch.Tensor, torch.Tensor]:
    """Return places [B, K] on the solver's grid and the states [B, K, ...] there of a rollout from fresh noise."""
    noise = sample_noise(step.seed, step.number, batch.indices, batch.latent_shape).to(step.device)
    query_BK = draw_query_indices(
        step.options.query, step.options.num_queries, step.options.rollout_steps,
        seed=step.seed, step=step.number, indices=batch.indices, total=batch.total,
    )  # fmt: skip
    return query_BK, roll_out_in_chunks(step.options, student, noise, batch, query_BK)


def match(
    student: Field,
    z_BK: torch.Tensor,
    sigma_BK: torch.Tensor,
    target_BK: torch.Tensor,
    batch: Batch,
    backward: Backward,
    weight_BK: torch.Tensor,
) -> torch.Tensor:
    """Add the gradient of the samples' mean of sum_k weight_k * loss_k, and return the losses [B, K] on the CPU.

    loss_k is the mean squared error between the student's velocity at the k-th state and its target [B, K, ...].
    """
    loss_BK = torch.zeros(sigma_BK.shape)
    weight_BK = weight_BK.to(z_BK.device)
    for rows, ks in pieces(batch, sigma_BK.shape[1]):
        velocity = student(z_BK[rows, ks], sigma_BK[rows, ks], batch.condition.select(rows))
        loss_R = velocity_mse(velocity, target_BK[rows, ks])
        backward((loss_R * weight_BK[rows, ks]).sum() / len(loss_BK))
        loss_BK[rows, ks] = loss_R.detach().cpu()
    return loss_BK


def pieces(batch: Batch, num_queries: int) -> list[tuple[list[int], list[int]]]:
    """Split the gradient pass: yield the rows and the queries of the states that are matched together."""
    size = batch.match_batch_size
    rows, ks = range(len(batch.indices)), range(num_queries)
    states = [(row, k) for first in rows[::size] for k in ks for row in rows[first : first + size]]
    cuts = [states[i : i + size] for i in range(0, len(states), size)]
    return [([row for row, _ in cut], [k for _, k in cut]) for cut in cuts]


def roll_out_in_chunks(
    options: MethodOptions, field: Field, noise: torch.Tensor, batch: Batch, query_BK: torch.Tensor
) -> torch.Tensor:
    """Roll out all samples of the batch, `rollout_batch_size` at a time: states [B, K, ...].

    Without the early stop, the clean end is one more query, which is discarded.
    """
    num_queries = query_BK.shape[1]
    if not options.early_stop:
        query_BK = torch.nn.functional.pad(query_BK, (0, 1), value=options.rollout_steps)

    def roll(rows: list[int]) -> torch.Tensor:
        return rollout(
            field, noise[rows], batch.sigmas, batch.condition.select(rows), query_BK[rows], options.rollout_solver
        )

    return run_in_chunks(roll, len(noise), options.rollout_batch_size)[:, :num_queries]


@torch.no_grad()
def ask(teacher: Field, z_BK: torch.Tensor, sigma_BK: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Return the teacher's velocities [B, K, ...] in float32."""
    num_queries = sigma_BK.shape[1]

    def velocity(states: list[int]) -> torch.Tensor:
        rows, ks = [state // num_queries for state in states], [state % num_queries for state in states]
        return teacher(z_BK[rows, ks], sigma_BK[rows, ks], batch.condition.select(rows)).float()

    together = max(len(sigma_BK), batch.match_batch_size)
    return run_in_chunks(velocity, sigma_BK.numel(), together).unflatten(0, sigma_BK.shape)

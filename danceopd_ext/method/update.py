"""One update of DanceOPD: the five steps of the paper, in order.

Shape suffixes: B samples of a batch, K queries a sample, N solver steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from danceopd_ext.method.chunks import run_in_chunks
from danceopd_ext.method.fields import Condition, CountedField, Field
from danceopd_ext.method.query import draw_query_indices
from danceopd_ext.method.randomness import sample_noise
from danceopd_ext.method.rollout import rollout
from danceopd_ext.method.routing import draw_route


@dataclass(frozen=True, kw_only=True)
class Method:
    """What the method itself can be told; the defaults are the paper's."""

    rollout_steps: int = 16
    query: str = "low_noise"
    num_queries: int = 1
    rollout_batch_size: int | None = None
    """Samples that roll out together; None takes all samples of the step (halved where memory does not suffice)."""


@dataclass
class Batch:
    """Samples of one step that share a latent shape and a sigma grid.

    `indices`: the samples' places among all `total` samples of the step, over all processes and micro-batches.
    `latent_shape`: without the batch axis. `sigmas`: [N + 1], from 1 (pure noise) to 0 (clean).
    `micro_batch_size`: samples that hold activations together in the gradient pass.
    """

    condition: Condition
    indices: list[int]
    total: int
    latent_shape: tuple[int, ...]
    sigmas: torch.Tensor
    micro_batch_size: int


@dataclass(frozen=True)
class Report:
    """What an update did. Losses are means over elements; forwards count samples through the transformer."""

    route: str
    loss: float
    samples: int
    mean_query_sigma: float
    rollout_forwards: int
    teacher_forwards: int
    student_forwards: int


@dataclass(frozen=True)
class Outcome:
    """What one batch came to. `loss_B`: each sample's loss, the mean over its elements and queries, on the CPU."""

    loss_B: torch.Tensor
    sigma_BK: torch.Tensor
    rollout_forwards: int
    teacher_forwards: int
    student_forwards: int


def velocity_mse(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """The plain mean squared error of two velocities in float32, for each sample: [B]."""
    return torch.nn.functional.mse_loss(student.float(), teacher.float(), reduction="none").flatten(1).mean(dim=1)


def update(
    method: Method,
    step: int,
    seed: int,
    routes: Mapping[str, float],
    data: Callable[[str, int], list[Batch]],
    teachers: Mapping[str, Field],
    student: Field,
    backward: Callable[[torch.Tensor], None],
    device: torch.device | str = "cpu",
) -> Report:
    """Accumulate the gradient of one optimizer step and report it.

    `data(route, step)` gives this process's samples of the step. `backward(loss)` is called once for each piece of the
    gradient pass, right after the student's forward; the losses add up to the mean over this process's samples.
    """
    # 1. Route: draw one teacher, and conditions from that teacher's own data only.
    route = draw_route(routes, seed, step)
    batches = data(route, step)

    samples = sum(len(batch.indices) for batch in batches)
    outcomes = []
    for batch in batches:  # one for each size of picture
        share = len(batch.indices) / samples
        outcomes.append(distil(method, step, seed, batch, teachers[route], student, backward, share, device))
    return Report(
        route,
        float(torch.cat([o.loss_B for o in outcomes]).mean()),
        samples,
        float(torch.cat([o.sigma_BK for o in outcomes]).mean()),
        sum(o.rollout_forwards for o in outcomes),
        sum(o.teacher_forwards for o in outcomes),
        sum(o.student_forwards for o in outcomes),
    )


def distil(
    method: Method,
    step: int,
    seed: int,
    batch: Batch,
    teacher: Field,
    student: Field,
    backward: Callable[[torch.Tensor], None],
    share: float = 1.0,
    device: torch.device | str = "cpu",
) -> Outcome:
    """Steps 2 to 5 for samples whose route is known; `share` weighs their mean loss.

    A trainer that reads its data before it knows the route calls this alone, with `by_route` as the teacher.
    """
    rolling, asked, learner = CountedField(student), CountedField(teacher), CountedField(student)

    # 2. Roll out the current student from fresh noise,
    # 3. and query one state (or K) of its trajectory; the rollout stops there. No gradient flows through it.
    noise = sample_noise(seed, step, batch.indices, batch.latent_shape).to(device)
    query_BK = draw_query_indices(
        method.query, method.num_queries, method.rollout_steps,
        seed=seed, step=step, indices=batch.indices, total=batch.total,
    )  # fmt: skip
    z_BK = roll_out_in_chunks(method, rolling, noise, batch, query_BK)
    sigma_BK = batch.sigmas[query_BK].to(z_BK)

    # 4. Ask the teacher for its velocity there.
    target_BK = ask(asked, z_BK, sigma_BK, batch)

    # 5. Match: the student's velocity at the same state, plain MSE, gradient into the student only.
    loss_BK = torch.zeros(query_BK.shape)
    for rows, k in pieces(batch, method.num_queries):
        velocity = learner(z_BK[rows, k], sigma_BK[rows, k], batch.condition.select(rows))
        loss_R = velocity_mse(velocity, target_BK[rows, k])
        backward(loss_R.sum() * (share / query_BK.numel()))
        loss_BK[rows, k] = loss_R.detach().cpu()
    return Outcome(loss_BK.mean(dim=1), sigma_BK.cpu(), rolling.samples, asked.samples, learner.samples)


def pieces(batch: Batch, num_queries: int) -> list[tuple[list[int], int]]:
    """The gradient pass, cut up: (rows of one micro-batch, query)."""
    size = batch.micro_batch_size
    rows = list(range(len(batch.indices)))
    return [(rows[i : i + size], k) for i in range(0, len(rows), size) for k in range(num_queries)]


def roll_out_in_chunks(
    method: Method, field: Field, noise: torch.Tensor, batch: Batch, query_BK: torch.Tensor
) -> torch.Tensor:
    """Roll out all samples of the batch, `rollout_batch_size` at a time: states [B, K, ...]."""

    def roll(rows: list[int]) -> torch.Tensor:
        return rollout(field, noise[rows], batch.sigmas, batch.condition.select(rows), query_BK[rows])

    return run_in_chunks(roll, len(noise), method.rollout_batch_size)


@torch.no_grad()
def ask(teacher: Field, z_BK: torch.Tensor, sigma_BK: torch.Tensor, batch: Batch) -> torch.Tensor:
    """The teacher's velocities [B, K, ...] in float32."""

    def velocity(rows: list[int]) -> torch.Tensor:
        condition = batch.condition.select(rows)
        queries = range(z_BK.shape[1])
        return torch.stack([teacher(z_BK[rows, k], sigma_BK[rows, k], condition).float() for k in queries], dim=1)

    return run_in_chunks(velocity, len(z_BK), None)

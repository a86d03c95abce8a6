"""One optimizer step out of batches, the same for every method; only the objective differs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch

from danceopd_ext.method.fields import Field
from danceopd_ext.method.records import Backward, Batch, Method, Objective, Outcome, Report
from danceopd_ext.method.routing import draw_route, shares

#: (route, step) -> this process's samples of that route in the step
Data = Callable[[str, int], list[Batch]]


class Update(Protocol):
    """Accumulates the gradient of one optimizer step; see `update.update`."""

    def __call__(
        self,
        method: Method,
        step: int,
        seed: int,
        routes: Mapping[str, float],
        data: Data,
        teachers: Mapping[str, Field],
        student: Field,
        backward: Backward,
        device: torch.device | str = "cpu",
    ) -> Report: ...


def accumulate(
    objective: Objective,
    method: Method,
    step: int,
    seed: int,
    batches: Sequence[Batch],
    teacher: Field,
    student: Field,
    backward: Backward,
    device: torch.device | str,
    weight: float = 1.0,
) -> list[Outcome]:
    """Run the objective on the batches of one route, one for each size of picture.

    The gradients add up to that of `weight` times the mean loss over this process's samples.
    """
    samples = sum(len(batch.indices) for batch in batches)
    return [
        objective(
            method, step, seed, batch, teacher, student, backward, weight * len(batch.indices) / samples, device
        )
        for batch in batches
    ]  # fmt: skip


def report(found: Mapping[str, tuple[float, Sequence[Outcome]]]) -> Report:
    """Route -> (weight, outcomes) of a step -> its report; the weights add up to 1."""
    everything = [outcome for _, outcomes in found.values() for outcome in outcomes]
    return Report(
        " + ".join(found),
        sum(weight * float(torch.cat([o.loss_B for o in outcomes]).mean()) for weight, outcomes in found.values()),
        sum(len(o.loss_B) for o in everything),
        sum(weight * float(torch.cat([o.sigma_BK for o in outcomes]).mean()) for weight, outcomes in found.values()),
        sum(o.rollout_forwards for o in everything),
        sum(o.teacher_forwards for o in everything),
        sum(o.student_forwards for o in everything),
    )


def one_route(objective: Objective) -> Update:
    """The update of a method that, like DanceOPD, learns from the data of one drawn route in each step."""

    def update_one_route(method, step, seed, routes, data, teachers, student, backward, device="cpu"):
        route = draw_route(routes, seed, step)
        outcomes = accumulate(
            objective, method, step, seed, data(route, step), teachers[route], student, backward, device
        )
        return report({route: (1.0, outcomes)})

    return update_one_route


def every_route(objective: Objective) -> Update:
    """The update of a method that learns from the data of all routes in each step, each by its share of the weights."""

    def update_every_route(method, step, seed, routes, data, teachers, student, backward, device="cpu"):
        found = {
            route: (share, accumulate(
                objective, method, step, seed, data(route, step), teachers[route], student, backward, device, share
            ))
            for route, share in shares(routes).items()
        }  # fmt: skip
        return report(found)

    return update_every_route

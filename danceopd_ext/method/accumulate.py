"""Accumulates the gradient of one optimizer step from batches; methods differ only in the objective."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch

from danceopd_ext.method.fields import Field
from danceopd_ext.method.records import Batch, Objective, Outcome, Report, Step, Student
from danceopd_ext.method.routing import draw_route, shares

#: (route, step) -> this process's samples of that route in the step
Data = Callable[[str, int], list[Batch]]


class Update(Protocol):
    """Accumulates the gradient of one optimizer step; see `update.update`."""

    def __call__(
        self,
        step: Step,
        routes: Mapping[str, float],
        data: Data,
        teachers: Mapping[str, Field],
        student: Student,
    ) -> Report: ...


def accumulate(
    objective: Objective,
    step: Step,
    batches: Sequence[Batch],
    teacher: Field,
    student: Student,
    weight: float = 1.0,
) -> list[Outcome]:
    """Run the objective on the batches of one route; each picture size has its own batch.

    The gradients add up to that of `weight` times the mean loss over this process's samples.
    """
    samples = sum(len(batch.indices) for batch in batches)
    return [objective(step, batch, teacher, student, weight * len(batch.indices) / samples) for batch in batches]


def report(found: Mapping[str, tuple[float, Sequence[Outcome]]]) -> Report:
    """Make the report of a step from route -> (weight, outcomes); the weights add up to 1."""
    everything = [outcome for _, outcomes in found.values() for outcome in outcomes]

    def mean(of: Callable[[Outcome], torch.Tensor]) -> float:
        return sum(weight * float(torch.cat(list(map(of, outcomes))).mean()) for weight, outcomes in found.values())

    return Report(
        route=" + ".join(found),
        loss=mean(lambda outcome: outcome.loss_B),
        samples=sum(len(outcome.loss_B) for outcome in everything),
        mean_query_sigma=mean(lambda outcome: outcome.sigma_BK),
        rollout_forwards=sum(outcome.rollout_forwards for outcome in everything),
        teacher_forwards=sum(outcome.teacher_forwards for outcome in everything),
        student_forwards=sum(outcome.student_forwards for outcome in everything),
    )


def one_route(objective: Objective) -> Update:
    """Return the update of a method that, like DanceOPD, learns from the data of one drawn route in each step."""

    def update_one_route(step, routes, data, teachers, student):
        route = draw_route(routes, step.seed, step.number)
        outcomes = accumulate(objective, step, data(route, step.number), teachers[route], student)
        return report({route: (1.0, outcomes)})

    return update_one_route


def every_route(objective: Objective) -> Update:
    """Return the update of a method that learns from all routes in each step, each by its share of the weights."""

    def update_every_route(step, routes, data, teachers, student):
        return report(
            {
                route: (share, accumulate(objective, step, data(route, step.number), teachers[route], student, share))
                for route, share in shares(routes).items()
            }
        )

    return update_every_route

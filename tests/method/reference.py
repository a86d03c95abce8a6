"""One step of every method on a plane, two routes, and what a reference written by hand is compared with."""

from __future__ import annotations

import pytest
import torch

from danceopd_ext.method import METHODS, Batch, MethodOptions, Step, Student, draw_route, sample_noise
from tests.method.fields2d import Target, straight

SIGMAS = torch.tensor([1.0, 0.9, 0.7, 0.4, 0.15, 0.0])
STEPS = len(SIGMAS) - 1
SEED, STEP, COUNT = 11, 3, 4
POINTS = torch.randn(2 * COUNT, 2, generator=torch.Generator().manual_seed(5))
#: clean ends of the samples; sample 1 has none where a method can do without
CLEAN = torch.randn(COUNT, 2, generator=torch.Generator().manual_seed(6))
GROUP = 3
METHOD = MethodOptions(rollout_steps=STEPS, flowopd_group_size=GROUP)
WEIGHTS = {"b": 3.0, "a": 1.0}
DRAWN = draw_route(WEIGHTS, SEED, STEP)


def other(z, sigma, condition):
    """A second teacher."""
    return 0.5 * z - condition.points + sigma[:, None]


TEACHERS = {"a": other, "b": straight}


def batches(route, indices=range(COUNT), match_batch_size=2, clean_latents=()):
    """Samples of a route; where a step has those of both, the second route's come after the first's."""
    first = COUNT if route == "b" else 0
    indices = [first + i for i in indices]
    return [Batch(Target(POINTS[indices]), indices, 2 * COUNT, (2,), SIGMAS, match_batch_size, clean_latents)]


def run(name, student, method=METHOD, **data):
    student.zero_grad(set_to_none=True)
    report = METHODS[name].update(
        Step(options=method, seed=SEED, number=STEP),
        WEIGHTS,
        lambda route, step: batches(route, **data),
        TEACHERS,
        Student(field=student, backward=torch.Tensor.backward),
    )
    return report, gradient_of(student)


def gradient_of(student):
    return torch.cat([p.grad.flatten() for p in student.parameters()])


def by_hand(loss, student):
    """(value, gradient) of a loss that a reference built."""
    student.zero_grad(set_to_none=True)
    loss.backward()
    return float(loss.detach()), gradient_of(student)


def check(found, expected):
    report, gradient = found
    assert report.loss == pytest.approx(expected[0], rel=1e-5)
    assert gradient.norm() > 1e-3
    assert torch.allclose(gradient, expected[1], rtol=1e-4, atol=1e-6)


def samples(route=DRAWN):
    """(place, index in the step, noise, condition) of each sample of a route."""
    for i, index in enumerate(batches(route)[0].indices):
        yield i, index, sample_noise(SEED, STEP, [index], (2,)), Target(POINTS[index : index + 1])


def mse(velocity, target):
    return ((velocity - target) ** 2).mean()

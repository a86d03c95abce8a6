"""What holds for every method: it does not matter how a step is cut up, and it teaches."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch

from danceopd_ext.method import METHODS, CountedField, MethodOptions, Step, Student, by_route, guided, mixture
from danceopd_ext.method.objectives import RULES
from tests.method.fields2d import Linear, Target, straight
from tests.method.reference import (
    CLEAN,
    COUNT,
    GROUP,
    METHOD,
    SEED,
    STEP,
    STEPS,
    TEACHERS,
    WEIGHTS,
    batches,
    other,
    run,
)

EVERY = {
    "offpolicy": {"clean_latents": [CLEAN[0], None, CLEAN[2], CLEAN[3]]},
    "joint": {"clean_latents": list(CLEAN)},
    "diffusionopd": {},
    "flowopd": {},
    "soft": {},
    **{name: {} for name in RULES},
}


def share_of(data, rows):
    return {"indices": rows, **{key: [values[i] for i in rows] for key, values in data.items()}}


def test_every_baseline_is_here():
    assert {*EVERY, "danceopd"} == set(METHODS)


def test_forwards_of_composed_fields():
    """Guidance costs two forwards a sample, a mixture those of its parts, and a routed sample its own field's."""
    x = Target(torch.ones(3, 2))
    twice = guided(other, 3.0)
    routed = by_route({"a": straight, "b": twice}, lambda condition: ["a", "b", "b"])
    for field, cost in ((straight, 3), (twice, 6), (guided(other, 1.0), 3), (mixture([straight, twice], [1, 1]), 9),
                        (routed, 5), (guided(mixture([straight, twice], [1, 1]), 2.0), 18)):  # fmt: skip
        counted = CountedField(field)
        counted(torch.zeros(3, 2), torch.full((3,), 0.5), x)
        assert counted.samples == cost


@pytest.mark.parametrize("name", EVERY)
def test_micro_batches_and_rollout_batches_change_nothing(name):
    data = EVERY[name]
    report, whole = run(name, Linear(0), match_batch_size=COUNT, **data)
    other_report, single = run(name, Linear(0), match_batch_size=1, **data)
    _, chunked = run(
        name, Linear(0), MethodOptions(rollout_steps=STEPS, flowopd_group_size=GROUP, rollout_batch_size=3), **data
    )
    _, across = run(name, Linear(0), match_batch_size=2 * COUNT - 1, **data)  # states of several solver steps
    assert torch.allclose(whole, single, rtol=1e-4, atol=1e-6)
    assert torch.allclose(whole, chunked, rtol=1e-4, atol=1e-6)
    assert torch.allclose(whole, across, rtol=1e-4, atol=1e-6)
    assert report.loss == pytest.approx(other_report.loss, rel=1e-5)


@pytest.mark.parametrize("name", EVERY)
def test_two_processes_shares_average_to_the_whole(name):
    data = EVERY[name]
    report, whole = run(name, Linear(0), **data)
    (one, first), (two, second) = (run(name, Linear(0), **share_of(data, rows)) for rows in ([0, 1], [2, 3]))
    assert torch.allclose(whole, (first + second) / 2, rtol=1e-4, atol=1e-6)
    assert report.loss == pytest.approx((one.loss + two.loss) / 2, rel=1e-5)
    assert report.forwards == one.forwards + two.forwards


@pytest.mark.parametrize("name", EVERY)
def test_a_step_depends_on_seed_and_step_alone(name):
    data = EVERY[name]
    _, once = run(name, Linear(0), **data)
    torch.manual_seed(99)
    _, again = run(name, Linear(0), **data)
    assert torch.equal(once, again)


@pytest.mark.parametrize("name", ["offpolicy", "diffusionopd", "flowopd", "timestep", "kl", "dmd"])
def test_the_student_becomes_its_teacher(name):
    """One route, a teacher that the student can be: what it learns from, it reaches."""
    student, teacher = Linear(0), Linear(1)
    optimizer = torch.optim.Adam(student.parameters(), lr=0.05)

    def learn(step):
        optimizer.zero_grad()
        report = METHODS[name].update(
            Step(options=METHOD, seed=SEED, number=step),
            {"b": 1.0},
            lambda route, step: batches(route),
            {"b": teacher},
            Student(field=student, backward=torch.Tensor.backward),
        )
        optimizer.step()
        return report.loss

    losses = [learn(step) for step in range(150)]
    assert sum(losses[-5:]) < sum(losses[:5]) / 20


@pytest.mark.parametrize("name", METHODS)
def test_an_update_runs_in_its_stages(name):
    """Whoever measures the stages sees each of them, one after the other, and all forwards inside."""
    seen, inside = [], []

    @contextmanager
    def stage(name):
        assert not inside
        seen.append(name)
        inside.append(name)
        yield
        inside.clear()

    def watched(field, stages):
        def asked(z, sigma, condition):
            assert inside[0] in stages
            return field(z, sigma, condition)

        return asked

    student = Linear(0)
    METHODS[name].update(
        Step(options=METHOD, seed=SEED, number=STEP, stage=stage),
        WEIGHTS,
        lambda route, step: batches(route, clean_latents=list(CLEAN)),
        {route: watched(teacher, ["teacher"]) for route, teacher in TEACHERS.items()},
        Student(field=watched(student, ["rollout", "teacher", "match"]), backward=torch.Tensor.backward),
    )
    own = {"joint": ["match"], "offpolicy": ["teacher", "match"]}.get(name, ["rollout", "teacher", "match"])
    assert seen == own * (len(WEIGHTS) if METHODS[name].every_route else 1)

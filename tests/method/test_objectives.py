"""Other objectives at the state of DanceOPD, written out by hand, one sample at a time."""

from __future__ import annotations

import pytest
import torch

from danceopd_ext.method import MethodOptions, draw_query_indices, sample_noise
from danceopd_ext.method.joint import draw_sigmas
from danceopd_ext.method.objectives import RULES
from tests.method.fields2d import Linear
from tests.method.reference import (
    COUNT,
    DRAWN,
    METHOD,
    SEED,
    SIGMAS,
    STEP,
    STEPS,
    TEACHERS,
    batches,
    by_hand,
    check,
    mse,
    run,
    samples,
)


def clean_of(field, z, sigma, x):
    """The clean picture that a velocity implies."""
    return z - sigma * field(z, sigma, x)


def aim(name, student, teacher, z, sigma, after, noise, level, x):
    """(what the student's own value is compared with, that value, weight), as each objective is usually written."""
    if name in ("timestep", "kl"):
        s_squared = METHOD.sde_eta**2 * sigma / (1 - (after if sigma == 1 else sigma))
        pace = (1 + s_squared * (1 - sigma) / (2 * sigma)) * (after - sigma)
        weight = {"timestep": sigma**2, "kl": pace**2 / (2 * s_squared)}[name]
        return teacher(z, sigma, x), student(z, sigma, x), weight
    mine = clean_of(student, z, sigma, x)
    noised = (1 - level) * mine + level * noise
    if name == "sds":
        wanted = clean_of(teacher, noised, level, x)
    elif name == "dmd":
        wanted = mine + clean_of(teacher, noised, level, x) - clean_of(student, noised, level, x)
    else:
        later = z + (after - sigma) * teacher(z, sigma, x)
        wanted = clean_of(student, later, after, x) if after > 0 else later
    return wanted.detach(), mine, 1.0


@pytest.mark.parametrize("queries", [1, STEPS])
@pytest.mark.parametrize("name", RULES)
def test_objectives(name, queries):
    method = MethodOptions(rollout_steps=STEPS, num_queries=queries)
    student, losses = Linear(0), []
    for _, index, noise, x in samples():
        states = [noise]
        for k in range(STEPS):
            velocity = student(states[-1], SIGMAS[k : k + 1], x)
            states.append((states[-1] + (SIGMAS[k + 1] - SIGMAS[k]) * velocity).detach())
        again = sample_noise(SEED, STEP, [index], (2,), "renoise")
        level = draw_sigmas(batches(DRAWN, [index % COUNT])[0], SEED, STEP)
        for q in draw_query_indices(
            "low_noise", queries, STEPS, seed=SEED, step=STEP, indices=[index], total=2 * COUNT
        )[0].tolist():
            sigma, after = SIGMAS[q : q + 1], SIGMAS[q + 1 : q + 2]
            wanted, mine, weight = aim(name, student, TEACHERS[DRAWN], states[q], sigma, after, again, level, x)
            losses.append(weight * mse(mine, wanted))
    check(run(name, student, method), by_hand(torch.stack(losses).mean(), student))

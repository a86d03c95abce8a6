"""Each baseline's loss and gradient are those of the method written out by hand, one sample at a time."""

from __future__ import annotations

import math

import pytest
import torch

from danceopd_ext.method import Batch, MethodOptions, draw_query_indices, generator, shares
from danceopd_ext.method.flow_opd import ppo_loss, trajectory_noise
from danceopd_ext.method.joint import draw_sigmas
from tests.method.fields2d import Linear, Target, straight
from tests.method.reference import (
    CLEAN,
    COUNT,
    DRAWN,
    GROUP,
    SEED,
    SIGMAS,
    STEP,
    STEPS,
    TEACHERS,
    by_hand,
    check,
    mse,
    other,
    run,
    samples,
)

# --- off-policy


@pytest.mark.parametrize("queries", [1, 3])
def test_off_policy(queries):
    method = MethodOptions(rollout_steps=STEPS, num_queries=queries, query="mid_noise")
    clean_latents = [CLEAN[0], None, CLEAN[2], CLEAN[3]]
    student, losses = Linear(0), []
    for i, index, noise, x in samples():
        end = CLEAN[i] if i != 1 else torch.randn((2,), generator=generator(SEED, "endpoint", STEP, index))
        for q in draw_query_indices(
            "mid_noise", queries, STEPS, seed=SEED, step=STEP, indices=[index], total=2 * COUNT
        )[0].tolist():
            sigma = SIGMAS[q : q + 1]
            z = end * (1 - sigma) + noise * sigma
            losses.append(mse(student(z, sigma, x), TEACHERS[DRAWN](z, sigma, x)))
    expected = by_hand(torch.stack(losses).mean(), student)
    found = run("offpolicy", student, method, clean_latents=clean_latents)
    check(found, expected)
    assert (found[0].rollout_forwards, found[0].teacher_forwards) == (0, COUNT * queries)
    assert found[0].student_forwards == COUNT * queries


def test_off_policy_without_any_target_takes_random_ends():
    report, plain = run("offpolicy", Linear(0))
    _, none = run("offpolicy", Linear(0), clean_latents=[None] * COUNT)
    _, some = run("offpolicy", Linear(0), clean_latents=list(CLEAN))
    assert torch.equal(plain, none)
    assert not torch.allclose(plain, some, rtol=1e-2)
    assert report.route == DRAWN


# --- joint training


def test_joint():
    student, losses = Linear(0), []
    for i, index, noise, x in samples():
        place = float(torch.rand((), generator=generator(SEED, "sigma", STEP, index))) * STEPS
        low = int(place)
        sigma = SIGMAS[low : low + 1] + (place - low) * (SIGMAS[low + 1] - SIGMAS[low])
        z = (1 - sigma) * CLEAN[i] + sigma * noise
        losses.append(mse(student(z, sigma, x), noise - CLEAN[i]))
    found = run("joint", student, clean_latents=list(CLEAN))
    check(found, by_hand(torch.stack(losses).mean(), student))
    report = found[0]
    assert (report.rollout_forwards, report.teacher_forwards, report.student_forwards) == (0, 0, COUNT)


def test_joint_looks_everywhere_between_noise_and_picture():
    batch = Batch(Target(torch.zeros(4000, 2)), list(range(4000)), 4000, (2,), torch.tensor([1.0, 0.5, 0.0]), 1)
    sigmas = draw_sigmas(batch, 7, 0)
    assert 0 < sigmas.min() < 0.01
    assert 0.99 < sigmas.max() <= 1
    assert float(sigmas.mean()) == pytest.approx(0.5, abs=0.02)
    assert float((sigmas < 0.25).float().mean()) == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize("clean_latents", [(), [None, *CLEAN[1:]]])
def test_joint_needs_every_target(clean_latents):
    with pytest.raises(ValueError, match="clean latents"):
        run("joint", Linear(0), clean_latents=clean_latents)


# --- DiffusionOPD


def test_diffusion_opd():
    student, total = Linear(0), 0.0
    for route, share in {"a": 0.25, "b": 0.75}.items():
        losses = []
        for _, _, z, x in samples(route):
            for n in range(STEPS):
                sigma, dt = SIGMAS[n : n + 1], float(SIGMAS[n + 1] - SIGMAS[n])
                weight = dt**2 / 2
                losses.append(weight * mse(student(z, sigma, x), TEACHERS[route](z, sigma, x)))
                with torch.no_grad():
                    z = z + dt * student(z, sigma, x)
        total = total + share * torch.stack(losses).sum() / COUNT
    found = run("diffusionopd", student)
    check(found, by_hand(total, student))
    report = found[0]
    assert report.route == "a + b"
    assert (report.samples, report.rollout_forwards) == (2 * COUNT, 2 * COUNT * (STEPS - 1))
    assert (report.teacher_forwards, report.student_forwards) == (2 * COUNT * STEPS, 2 * COUNT * STEPS)
    assert report.forwards == 2 * COUNT * (3 * STEPS - 1)


def test_a_route_of_no_weight_has_no_part():
    assert shares({"b": 3.0, "a": 1.0, "never": 0.0}) == {"a": 0.25, "b": 0.75}


# --- soft routing


def test_soft():
    student, losses = Linear(0), []
    for _, index, z, x in samples():
        q = int(draw_query_indices("low_noise", 1, STEPS, seed=SEED, step=STEP, indices=[index], total=2 * COUNT)[0])
        for n in range(q):
            with torch.no_grad():
                z = z + (SIGMAS[n + 1] - SIGMAS[n]) * student(z, SIGMAS[n : n + 1], x)
        sigma = SIGMAS[q : q + 1]
        target = (straight(z, sigma, x) + other(z, sigma, x)) / 2
        losses.append(mse(student(z, sigma, x), target))
    found = run("soft", student)
    check(found, by_hand(torch.stack(losses).mean(), student))
    assert (found[0].route, found[0].teacher_forwards, found[0].student_forwards) == (DRAWN, 2 * COUNT, COUNT)


# --- Flow-OPD


def flow_opd_by_hand(student, route, eta, clip_advantage, indices=range(COUNT)):
    """Every transition of every trajectory, in the paper's formulas."""
    ppo, divergences = [], []
    for i, index, _, x in samples(route):
        if i not in indices:
            continue
        rngs = [generator(SEED, "trajectory", STEP, index, g) for g in range(GROUP)]
        drawn = [torch.randn((STEPS + 1, 2), generator=rng) for rng in rngs]
        z = [d[0:1] for d in drawn]
        for n in range(STEPS):
            sigma, dt = float(SIGMAS[n]), float(SIGMAS[n + 1] - SIGMAS[n])
            s = eta * math.sqrt(sigma / (1 - sigma if sigma < 1 else 1 - float(SIGMAS[n + 1])))
            std = s * math.sqrt(-dt)

            def mean_of(v, z, s=s, sigma=sigma, dt=dt):
                return z * (1 + s**2 * dt / (2 * sigma)) + v * (1 + s**2 * (1 - sigma) / (2 * sigma)) * dt

            level, moves = SIGMAS[n : n + 1], []
            for g in range(GROUP):
                mean = mean_of(student(z[g], level, x), z[g])
                teacher = mean_of(TEACHERS[route](z[g], level, x), z[g])
                moves.append((mean, ((mean - teacher) ** 2).mean() / (2 * s**2)))
            middle = -sum(float(d.detach()) for _, d in moves) / GROUP
            for g, (mean, divergence) in enumerate(moves):
                z_next = (mean + std * drawn[g][n + 1]).detach()
                log_p = (-((z_next - mean) ** 2) / (2 * std**2) - math.log(std * math.sqrt(2 * math.pi))).mean()
                advantage = (-divergence - middle).clamp(-clip_advantage, clip_advantage)
                ppo.append(-advantage * torch.exp(log_p - log_p.detach()))
                divergences.append(float(divergence.detach()))
                z[g] = z_next
    return torch.stack(ppo).mean(), sum(divergences) / len(divergences)


@pytest.mark.parametrize(("eta", "clip"), [(0.7, 5.0), (0.3, 0.05)])
def test_flow_opd(eta, clip):
    student = Linear(0)
    loss, divergence = flow_opd_by_hand(student, DRAWN, eta, clip)
    _, expected = by_hand(loss, student)
    method = MethodOptions(rollout_steps=STEPS, flowopd_group_size=GROUP, sde_eta=eta, advantage_clip=clip)
    report, gradient = run("flowopd", student, method)
    check((report, gradient), (divergence, expected))
    every = COUNT * GROUP * STEPS
    assert (report.rollout_forwards, report.teacher_forwards, report.student_forwards) == (every, every, every)
    assert report.mean_query_sigma == pytest.approx(float(SIGMAS[:-1].mean()))


def test_ppo_takes_the_worse_of_the_free_and_the_clipped_ratio():
    old = torch.zeros(4)
    log_p = torch.tensor([0.3, 0.3, -0.3, -0.3], requires_grad=True)
    advantage = torch.tensor([2.0, -2.0, 2.0, -2.0])
    loss = ppo_loss(log_p, old, advantage, 0.1)
    up, down = math.exp(0.3), math.exp(-0.3)
    assert loss.tolist() == pytest.approx([-2 * 1.1, 2 * up, -2 * down, 2 * 0.9])
    loss.sum().backward()
    assert log_p.grad.tolist() == pytest.approx([0.0, 2 * up, -2 * down, 0.0])


def test_trajectories_of_a_group_and_of_samples_differ():
    def noise(indices):
        return trajectory_noise(SEED, STEP, Batch(Target(torch.zeros(3, 2)), indices, 4, (2,), SIGMAS, 1), 3, 2)

    first, draws = noise([1, 1, 1])
    assert first.shape == (3, 2)
    assert draws.shape == (3, 2, 2)
    assert len({float(number) for part in (first, draws) for number in part.flatten()}) == 3 * 3 * 2
    assert not torch.isclose(first, noise([2, 2, 2])[0]).any()

"""Each baseline's loss and gradient are those of the method written out by hand, one sample at a time."""

from __future__ import annotations

import math

import pytest
import torch

from danceopd_ext.method import (
    METHODS,
    Batch,
    CountedField,
    Method,
    by_route,
    draw_query_indices,
    draw_route,
    generator,
    guided,
    mixture,
    sample_noise,
    shares,
)
from danceopd_ext.method.flow_opd import ppo_loss, trajectory_noise
from danceopd_ext.method.joint import draw_sigmas
from danceopd_ext.method.objectives import RULES
from tests.method.fields2d import Linear, Target, straight

SIGMAS = torch.tensor([1.0, 0.9, 0.7, 0.4, 0.15, 0.0])
STEPS = len(SIGMAS) - 1
SEED, STEP, COUNT = 11, 3, 4
POINTS = torch.randn(2 * COUNT, 2, generator=torch.Generator().manual_seed(5))
#: clean ends of the samples; sample 1 has none where a method can do without
CLEAN = torch.randn(COUNT, 2, generator=torch.Generator().manual_seed(6))
GROUP = 3
METHOD = Method(rollout_steps=STEPS, flowopd_group_size=GROUP)
WEIGHTS = {"b": 3.0, "a": 1.0}
DRAWN = draw_route(WEIGHTS, SEED, STEP)


def other(z, sigma, condition):
    """A second teacher."""
    return 0.5 * z - condition.points + sigma[:, None]


TEACHERS = {"a": other, "b": straight}


def batches(route, indices=range(COUNT), match_batch_size=2, targets=()):
    """Samples of a route; where a step has those of both, the second route's come after the first's."""
    first = COUNT if route == "b" else 0
    indices = [first + i for i in indices]
    return [Batch(Target(POINTS[indices]), indices, 2 * COUNT, (2,), SIGMAS, match_batch_size, targets)]


def run(name, student, method=METHOD, **data):
    student.zero_grad(set_to_none=True)
    report = METHODS[name].update(
        method, STEP, SEED, WEIGHTS, lambda route, step: batches(route, **data), TEACHERS, student,
        torch.Tensor.backward,
    )  # fmt: skip
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


# --- off-policy


@pytest.mark.parametrize("queries", [1, 3])
def test_off_policy(queries):
    method = Method(rollout_steps=STEPS, num_queries=queries, query="mid_noise")
    targets = [CLEAN[0], None, CLEAN[2], CLEAN[3]]
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
    found = run("offpolicy", student, method, targets=targets)
    check(found, expected)
    assert (found[0].rollout_forwards, found[0].teacher_forwards) == (0, COUNT * queries)
    assert found[0].student_forwards == COUNT * queries


def test_off_policy_without_any_target_takes_random_ends():
    report, plain = run("offpolicy", Linear(0))
    _, none = run("offpolicy", Linear(0), targets=[None] * COUNT)
    _, some = run("offpolicy", Linear(0), targets=list(CLEAN))
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
    found = run("joint", student, targets=list(CLEAN))
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


@pytest.mark.parametrize("targets", [(), [None, *CLEAN[1:]]])
def test_joint_needs_every_target(targets):
    with pytest.raises(ValueError, match="clean latents"):
        run("joint", Linear(0), targets=targets)


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
    method = Method(rollout_steps=STEPS, flowopd_group_size=GROUP, sde_eta=eta, advantage_clip=clip)
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


# --- other objectives at the state of DanceOPD


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
    method = Method(rollout_steps=STEPS, num_queries=queries)
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


# --- all of them

EVERY = {
    "offpolicy": {"targets": [CLEAN[0], None, CLEAN[2], CLEAN[3]]},
    "joint": {"targets": list(CLEAN)},
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
        name, Linear(0), Method(rollout_steps=STEPS, flowopd_group_size=GROUP, rollout_batch_size=3), **data
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
            METHOD, step, SEED, {"b": 1.0}, lambda route, step: batches(route), {"b": teacher}, student,
            torch.Tensor.backward,
        )  # fmt: skip
        optimizer.step()
        return report.loss

    losses = [learn(step) for step in range(150)]
    assert sum(losses[-5:]) < sum(losses[:5]) / 20

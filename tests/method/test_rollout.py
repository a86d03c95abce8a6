import math

import pytest
import torch

from danceopd_ext.method import CountedField, rollout
from tests.method.fields2d import Linear, Target, straight

SIGMAS = torch.tensor([1.0, 0.8, 0.5, 0.2, 0.0])
FIRST_FOUR = torch.tensor([[0, 1, 2, 3]])


def test_straight_flow_reaches_every_state_of_the_closed_form():
    noise = torch.tensor([[2.0, -1.0], [0.5, 3.0]])
    x = Target(torch.tensor([[1.0, 1.0], [-2.0, 0.0]]))
    states = rollout(straight, noise, SIGMAS, x, torch.tensor([[0, 1, 2, 3, 4]] * 2))
    for k, sigma in enumerate(SIGMAS):
        assert torch.allclose(states[:, k], x.points + sigma * (noise - x.points), atol=1e-6)


def test_two_euler_steps_by_hand():
    def decay(z, sigma, condition):
        return 2 * z + sigma[:, None]

    states = rollout(
        decay, torch.tensor([[1.0, 0.0]]), torch.tensor([1.0, 0.5, 0.0]), Target(torch.zeros(1, 2)), torch.tensor([[2]])
    )
    # z1 = z0 - 0.5 (2 z0 + 1) ; z2 = z1 - 0.5 (2 z1 + 0.5)
    assert torch.allclose(states, torch.tensor([[[-0.25, -0.25]]]))


def test_three_adams_bashforth_steps_by_hand():
    def growing(z, sigma, condition):
        return -z

    sigmas = torch.tensor([1.0, 0.8, 0.5, 0.1])
    states = rollout(growing, torch.tensor([[1.0, 2.0]]), sigmas, Target(torch.zeros(1, 2)), FIRST_FOUR[:1], "ab2")
    # z1 = 1 + 0.2; z2 = z1 + 0.3 (z1 + (z1 - z0) 0.3 / 0.4); z3 = z2 + 0.4 (z2 + (z2 - z1) 0.4 / 0.6)
    z1, z2 = 1.2, 1.2 + 0.3 * (1.2 + 0.2 * 0.75)
    z3 = z2 + 0.4 * (z2 + (z2 - z1) * 2 / 3)
    assert torch.allclose(states[0, :, 0], torch.tensor([1.0, z1, z2, z3]))
    assert torch.allclose(states[0, :, 1], 2 * states[0, :, 0])


def test_adams_bashforth_is_of_second_order():
    def turning(z, sigma, condition):
        return torch.stack([-z[:, 1], z[:, 0]], dim=1) * 2 * sigma[:, None]

    noise, end = torch.tensor([[1.0, 0.0]]), torch.tensor([[math.cos(1.0), -math.sin(1.0)]])  # an angle of -sigma^2
    errors = {}
    for solver in ("euler", "ab2"):
        for steps in (8, 16):
            last = torch.tensor([[steps]])
            found = rollout(turning, noise, torch.linspace(1, 0, steps + 1), Target(noise), last, solver)[:, 0]
            errors[solver, steps] = float((found - end).norm())
    assert 1.6 < errors["euler", 8] / errors["euler", 16] < 2.4
    assert 3.2 < errors["ab2", 8] / errors["ab2", 16] < 4.8
    assert errors["ab2", 8] < errors["euler", 16]


def test_a_sample_leaves_when_it_has_arrived():
    seen = []

    def field(z, sigma, condition):
        seen.append((round(float(sigma[0]), 3), condition.points[:, 0].tolist()))
        return torch.zeros_like(z)

    counted = CountedField(field)
    points = Target(torch.tensor([[0.0, 0], [1.0, 0], [2.0, 0]]))
    rollout(counted, torch.randn(3, 2), SIGMAS, points, torch.tensor([[2], [0], [3]]))
    assert seen == [(1.0, [0.0, 2.0]), (0.8, [0.0, 2.0]), (0.5, [2.0])]
    assert counted.samples == 2 + 0 + 3


@pytest.mark.parametrize("solver", ["euler", "ab2"])
def test_stopping_early_gives_the_states_of_the_full_rollout(solver):
    student = Linear(3)
    noise = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    x = Target(torch.randn(4, 2, generator=torch.Generator().manual_seed(1)))
    full = rollout(student, noise, SIGMAS, x, torch.tensor([[0, 1, 2, 3, 4]] * 4), solver)
    ragged = rollout(student, noise, SIGMAS, x, torch.tensor([[3], [1], [0], [2]]), solver)
    for sample, query in enumerate((3, 1, 0, 2)):
        assert torch.allclose(ragged[sample, 0], full[sample, query], rtol=1e-6, atol=1e-6)
    alone = rollout(student, noise[:1], SIGMAS, x.select([0]), torch.tensor([[3]]), solver)
    all_steps = rollout(student, noise[:1], SIGMAS, x.select([0]), torch.tensor([[3, 4]]), solver)
    assert torch.equal(alone[:, 0], all_steps[:, 0])


def test_latents_stay_float32_when_the_field_computes_in_bfloat16():
    noise = torch.tensor([[1.0 + 2**-20, 0.0]])
    states = rollout(
        lambda z, s, c: torch.zeros_like(z).bfloat16(), noise, SIGMAS, Target(torch.zeros(1, 2)), torch.tensor([[4]])
    )
    assert states.dtype == torch.float32
    assert torch.equal(states[:, 0], noise)


def test_no_gradient_flows_through_the_solver():
    student = Linear(1)
    states = rollout(student, torch.randn(2, 2), SIGMAS, Target(torch.ones(2, 2)), torch.tensor([[2], [3]]))
    assert not states.requires_grad

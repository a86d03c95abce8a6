"""Flow-OPD's step equals the paper's formulas, in numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from danceopd_ext.method import CountedField
from danceopd_ext.method.sde import SdeStep, sde_rollout, sde_steps
from tests.method.fields2d import Target


def test_a_step_in_numbers():
    step = SdeStep(sigma=0.8, sigma_next=0.3, eta=0.5)
    # s = 0.5 sqrt(0.8 / 0.2) = 1; dt = -0.5; std = sqrt(0.5)
    assert step.s == pytest.approx(1.0)
    assert step.std == pytest.approx(math.sqrt(0.5))
    # mean = z (1 - 0.5 / 1.6) + v (1 + 0.2 / 1.6) (-0.5) = 0.6875 z - 0.5625 v
    mean = step.mean(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 4.0]]))
    assert torch.allclose(mean, torch.tensor([[0.6875, -0.875]]))
    # log N(x; mean, 0.5) = -(x - mean)^2 - log(pi) / 2: the mean of 0.25 and 1 off
    z_next = mean + torch.tensor([[0.5, -1.0]])
    assert float(step.log_probability(z_next, mean)) == pytest.approx(-0.625 - math.log(math.pi) / 2)
    assert float(step.divergence(mean, mean + torch.tensor([[2.0, 0.0]]))) == pytest.approx((4 + 0) / 2 / 2)


def test_log_probability_is_torchs():
    step = SdeStep(sigma=0.6, sigma_next=0.35, eta=0.7)
    mean, z_next = torch.randn(5, 3, 2, 2), torch.randn(5, 3, 2, 2)
    expected = torch.distributions.Normal(mean, step.std).log_prob(z_next).mean(dim=(1, 2, 3))
    assert torch.allclose(step.log_probability(z_next, mean), expected, rtol=1e-5)


def test_pure_noise_and_the_clean_end_are_finite():
    first, last = SdeStep(1.0, 0.75, 0.7), SdeStep(0.2, 0.0, 0.7)
    assert first.s == pytest.approx(0.7 * math.sqrt(1 / 0.25))
    assert last.s == pytest.approx(0.7 * math.sqrt(0.2 / 0.8))
    assert last.std == pytest.approx(0.35 * math.sqrt(0.2))
    assert SdeStep(1.0, 0.0, 0.7).s == pytest.approx(0.7)
    assert SdeStep(1.0, 0.99999, 0.7).s == pytest.approx(0.7 / math.sqrt(1e-3))


def test_without_noise_the_step_is_eulers():
    step = SdeStep(0.6, 0.35, 1e-9)
    z, v = torch.randn(2, 2), torch.randn(2, 2)
    assert torch.allclose(step.mean(z, v), z - 0.25 * v)


def test_the_steps_of_a_grid():
    steps = sde_steps(torch.tensor([1.0, 0.5, 0.0]), 0.7)
    assert [(s.sigma, s.sigma_next) for s in steps] == [(1.0, 0.5), (0.5, 0.0)]


def test_rollout():
    """Two steps on v = x: z1 and z2 by the formula."""
    steps = sde_steps(torch.tensor([1.0, 0.5, 0.0]), 0.7)
    draws, noise = torch.randn(3, 2, 2), torch.randn(3, 2)
    x = Target(torch.randn(3, 2))
    field = CountedField(lambda z, sigma, condition: condition.points * sigma[:, None])
    states = sde_rollout(field, noise, draws, steps, x)
    assert torch.equal(states[:, 0], noise)
    s0, s1 = 0.7 * math.sqrt(1 / 0.5), 0.7
    z1 = noise * (1 - s0**2 * 0.5 / 2) - x.points * 0.5 + s0 * math.sqrt(0.5) * draws[:, 0]
    z2 = z1 * (1 - s1**2 * 0.5) - 0.5 * x.points * (1 + s1**2 * 0.5) * 0.5 + s1 * math.sqrt(0.5) * draws[:, 1]
    assert torch.allclose(states[:, 1], z1, atol=1e-6)
    assert torch.allclose(states[:, 2], z2, atol=1e-6)
    assert field.samples == 6
    assert states.dtype == torch.float32


def test_the_noise_keeps_the_flows_marginals():
    """From N(0, 1) noise to N(0, 1) data the states stay N(0, s^2 + (1 - s)^2) with and without the noise."""
    sigmas = torch.linspace(1, 0, 201)

    def velocity(z, sigma, condition):
        # E[noise - x | z] for independent standard normal noise and x
        return z * ((2 * sigma - 1) / (sigma**2 + (1 - sigma) ** 2))[:, None]

    count = 4000
    noise, draws = torch.randn(count, 1), torch.randn(count, 200, 1)
    states = sde_rollout(velocity, noise, draws, sde_steps(sigmas, 0.7), Target(torch.zeros(count, 2)))
    for n in (50, 100, 150, 200):
        sigma = float(sigmas[n])
        assert float(states[:, n].var()) == pytest.approx(sigma**2 + (1 - sigma) ** 2, rel=0.1)

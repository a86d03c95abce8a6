"""Lumina Image 2.0: our velocity, grid and guidance are the toolkit's own."""

import pytest
import torch

from tests.integration.sd_scripts import tiny_lumina, velocity_checks


@pytest.fixture
def it():
    return tiny_lumina.make()


def test_the_velocity_is_the_trainers_own_prediction_turned_round(it):
    velocity_checks.expect_the_trainers_prediction(it)


@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_a_rollout_is_the_toolkits_own_sampler(it, scale):
    velocity_checks.expect_the_samplers_pictures(it, scale)


def test_a_sample_alone_is_as_in_a_batch(it):
    velocity_checks.expect_the_same_alone_and_in_a_batch(it)


def test_texts_matter(it):
    velocity_checks.expect_texts_to_matter(it)


def test_the_grid_is_shifted_again_at_its_end(it):
    """The scheduler's last step before the clean end lies at shift(shift(1/1000)), not at shift(1/N)."""
    grid = it.adapter.sigmas(16, tiny_lumina.SHAPE)
    once = 6 * 0.001 / (1 + 5 * 0.001)
    assert grid[-2] == pytest.approx(6 * once / (1 + 5 * once), abs=1e-6)
    plain = torch.linspace(1, 0, 17)
    assert grid[-2] < (6 * plain / (1 + 5 * plain))[-2] / 5

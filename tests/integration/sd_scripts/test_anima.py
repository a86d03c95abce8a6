"""Anima: our velocity, grid and guidance are the toolkit's own."""

import pytest

from tests.integration.sd_scripts import tiny_anima, velocity_checks


@pytest.fixture
def it():
    return tiny_anima.make()


def test_the_velocity_is_the_trainers_own_prediction(it):
    velocity_checks.expect_the_trainers_prediction(it)


@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_a_rollout_is_the_toolkits_own_sampler(it, scale):
    velocity_checks.expect_the_samplers_pictures(it, scale)


def test_a_sample_alone_is_as_in_a_batch(it):
    velocity_checks.expect_the_same_alone_and_in_a_batch(it)


def test_texts_matter(it):
    velocity_checks.expect_texts_to_matter(it)

"""HunyuanImage-2.1: our velocity, grid and guidance are the toolkit's own."""

import pytest
import torch

from tests.integration.sd_scripts import tiny_hunyuan_image, velocity_checks


@pytest.fixture
def it():
    return tiny_hunyuan_image.make()


def test_the_velocity_is_the_trainers_own_prediction(it):
    velocity_checks.expect_the_trainers_prediction(it)


@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_a_rollout_is_the_toolkits_own_sampler(it, scale):
    velocity_checks.expect_the_samplers_pictures(it, scale)


def test_a_sample_alone_is_as_in_a_batch(it):
    velocity_checks.expect_the_same_alone_and_in_a_batch(it)


def test_texts_matter(it):
    velocity_checks.expect_texts_to_matter(it)


def test_the_time_is_not_cut_to_a_whole_number(it):
    """The toolkit's trainer hears 400 for 0.4009; we hear 400.9."""
    z, sigma = it.noise(), torch.tensor([0.4009, 0.4009])
    ours = it.adapter.velocity(it.model, z, sigma, it.condition())
    cut = it.adapter.velocity(it.model, z, torch.tensor([0.4, 0.4]), it.condition())
    assert velocity_checks.difference(cut, it.predict(z, sigma, it.texts)) < 1e-5
    assert velocity_checks.difference(ours, cut) > 1e-4

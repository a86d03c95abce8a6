"""FLUX.1: the guidance that dev has learnt, and the grids of dev and schnell."""

import pytest
import torch

from tests.integration.sd_scripts import tiny_flux, velocity_checks


def test_the_guidance_that_dev_has_learnt_reaches_it():
    z, sigma = torch.randn(2, *tiny_flux.SHAPE), torch.tensor([0.9, 0.4])
    answers = []
    for guidance in (1.0, 3.5):
        it = tiny_flux.make("dev", guidance_scale=guidance)
        answers.append(it.adapter.velocity(it.model, z, sigma, it.condition()))
    assert velocity_checks.difference(*answers) > 1e-3


def test_grids_of_dev_and_schnell():
    """Dev's grid leans to the noisy side, more so for large pictures; schnell's is even, as the inference script's."""
    import flux_minimal_inference

    dev, schnell = tiny_flux.make("dev").adapter, tiny_flux.make("schnell").adapter
    small, large = dev.sigmas(4, (16, 64, 64)), dev.sigmas(4, (16, 128, 128))
    assert small.tolist() == pytest.approx(flux_minimal_inference.get_schedule(4, 32 * 32, shift=True))
    assert large.tolist() == pytest.approx(flux_minimal_inference.get_schedule(4, 64 * 64, shift=True))
    assert (large[1:-1] > small[1:-1]).all()
    assert schnell.sigmas(4, (16, 128, 128)).tolist() == [1, 0.75, 0.5, 0.25, 0]

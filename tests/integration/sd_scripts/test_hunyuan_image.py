"""HunyuanImage-2.1: the time that the transformer gets."""

import torch

from tests.integration.sd_scripts import tiny_hunyuan_image, velocity_checks


def test_the_time_is_not_cut_to_a_whole_number():
    """The toolkit's trainer passes 400 for 0.4009; we pass 400.9."""
    it = tiny_hunyuan_image.make()
    z, sigma = it.noise(), torch.tensor([0.4009, 0.4009])
    ours = it.adapter.velocity(it.model, z, sigma, it.condition())
    cut = it.adapter.velocity(it.model, z, torch.tensor([0.4, 0.4]), it.condition())
    assert velocity_checks.difference(cut, it.predict(z, sigma, it.texts)) < 1e-5
    assert velocity_checks.difference(ours, cut) > 1e-4

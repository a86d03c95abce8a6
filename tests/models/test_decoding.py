from types import SimpleNamespace

import numpy as np
import pytest
import torch

from danceopd_ext.models.decoding import NotFinite, decode, decode_finite


def vae(dtype=torch.float32):
    """Its pixels are its latents."""
    config = SimpleNamespace(scaling_factor=1.0, shift_factor=None)
    decoded = lambda latents, return_dict: (latents,)  # noqa: E731
    return SimpleNamespace(device=torch.device("cpu"), dtype=dtype, config=config, decode=decoded)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
def test_one_number_that_is_not_finite_is_no_picture(wrong):
    latents = torch.zeros(1, 3, 4, 4)
    assert np.array_equal(decode_finite(vae(), latents), decode(vae(), latents))
    latents[0, 1, 2, 3] = wrong
    with pytest.raises(NotFinite):
        decode_finite(vae(), latents)


def test_latents_that_are_too_large_for_the_vaes_precision():
    latents = torch.full((1, 3, 4, 4), 1e5)
    assert decode_finite(vae(), latents).min() == 255
    with pytest.raises(NotFinite):
        decode_finite(vae(torch.float16), latents)


def test_nan_is_black_where_nobody_asks():
    assert decode(vae(), torch.full((1, 3, 4, 4), float("nan"))).max() == 0

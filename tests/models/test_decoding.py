from types import SimpleNamespace

import numpy as np
import pytest
import torch

from danceopd_ext.models import decoding
from danceopd_ext.models.decoding import NotFinite, decode, decode_finite
from danceopd_ext.models.loading import load_vae
from danceopd_ext.models.model_files import find_model_files
from tests.tiny.calls import noise_for
from tests.tiny.pipelines import ALL


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


def test_tiles_are_smaller_than_the_picture(folder, monkeypatch):
    """The decoder sees one tile at a time; the picture keeps its size and, within a tile, its content."""
    monkeypatch.setattr(decoding, "TILE", 32)
    files = find_model_files(str(folder))
    vae, seen = load_vae(files, torch.float32), []
    vae.decoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[-1]))
    latents = noise_for(files.family, ALL[files.family.name](), (64, 64))
    whole = decoding.decode(vae, latents)
    (side,) = seen
    decoding.tile(vae)
    tiled = decoding.decode(vae, latents)
    assert len(seen) > 4 and max(seen[1:]) == side // 2
    assert tiled.shape == whole.shape
    assert np.abs(tiled.astype(int) - whole).mean() < 40
    small = noise_for(files.family, ALL[files.family.name](), (32, 32))
    seen.clear()
    decoding.decode(vae, small)
    assert len(seen) == 1, "a picture of one tile is decoded as ever"

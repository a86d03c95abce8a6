"""For every architecture: our velocity, grid and guidance are the toolkit's own."""

from __future__ import annotations

import pytest

from tests.integration.sd_scripts import (
    tiny_anima,
    tiny_flux,
    tiny_hunyuan_image,
    tiny_lumina,
    tiny_sd3,
    velocity_checks,
)
from tests.integration.sd_scripts.stand_ins import HERE

#: name -> (model_type, makes its tiny model)
MAKERS = {
    "sd3": ("sd3", tiny_sd3.make),
    "flux dev": ("flux", lambda: tiny_flux.make("dev")),
    "flux dev, masked": ("flux", lambda: tiny_flux.make("dev", masked=True)),
    "flux schnell": ("flux", lambda: tiny_flux.make("schnell")),
    "chroma": ("chroma", lambda: tiny_flux.make("chroma", guidance_scale=0.0, masked=True)),
    "lumina": ("lumina", tiny_lumina.make),
    "hunyuan_image": ("hunyuan_image", tiny_hunyuan_image.make),
    "anima": ("anima", tiny_anima.make),
}


@pytest.fixture(params=[name for name, (model_type, _) in MAKERS.items() if model_type in ("sd3", *HERE)])
def it(request, monkeypatch):
    from library import strategy_base, strategy_sd3

    model_type, make = MAKERS[request.param]
    if model_type == "sd3":  # its trainer asks the strategy of the process
        monkeypatch.setattr(strategy_base.TextEncodingStrategy, "_strategy", strategy_sd3.Sd3TextEncodingStrategy())
    return make()


def test_the_velocity_is_the_trainers_own_prediction(it):
    velocity_checks.expect_the_trainers_prediction(it)


@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_a_rollout_is_the_toolkits_own_sampler(it, scale):
    velocity_checks.expect_the_samplers_pictures(it, scale)


def test_a_sample_alone_is_as_in_a_batch(it):
    velocity_checks.expect_the_same_alone_and_in_a_batch(it)


def test_texts_matter(it):
    velocity_checks.expect_texts_to_matter(it)

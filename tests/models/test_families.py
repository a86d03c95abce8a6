"""Each family against its own diffusers pipeline, on tiny random models."""

import pytest
import torch

from danceopd_ext.method import guided, rollout
from danceopd_ext.models.family import TextConditions
from danceopd_ext.models.registry import FAMILIES
from tests.tiny.pipelines import PIPELINES, sd3_pipeline, z_image_pipeline

PROMPT = "a red cat on the house"


def relative(found, expected):
    return float((found - expected).norm() / expected.norm())


def our_latents(family, pipeline, prompts, noise, size, steps, scale):
    """Noise to latents with our rollout on our sigma grid."""
    texts = family.encode_prompts(pipeline, [*prompts, ""])
    condition = TextConditions(texts[:-1], texts[-1])
    sigmas = family.sigmas(pipeline.scheduler, pipeline.transformer.config, steps, tuple(noise.shape[-2:]))

    def field(z, sigma, c):
        return family.velocity(pipeline.transformer, z, sigma, c)

    end = torch.full((len(noise), 1), steps)
    return rollout(guided(field, scale), noise, sigmas, condition, end)[:, 0]


@pytest.mark.parametrize("scale", [1.0, 4.5])
@pytest.mark.parametrize("size", [(32, 32), (48, 32)])
@pytest.mark.parametrize("name", list(FAMILIES))
def test_our_sampler_gives_the_pipelines_latents(name, size, scale):
    family, pipeline = FAMILIES[name], PIPELINES[name](seed=1)
    width, height = size
    noise = torch.randn(
        1,
        *family.latent_shape(pipeline.transformer.config, 2, width, height),
        generator=torch.Generator().manual_seed(0),
    )
    # Z-Image's pipeline adds scale * (text - empty) to the text velocity: one less than the usual scale
    theirs = scale - 1 if name == "z_image" else scale
    expected = pipeline(
        PROMPT, negative_prompt="", width=width, height=height, num_inference_steps=6, guidance_scale=theirs,
        latents=noise.clone(), output_type="latent",
    ).images  # fmt: skip
    with torch.no_grad():
        found = our_latents(family, pipeline, [PROMPT], noise, size, 6, scale)
    assert relative(found, expected) < 1e-4
    assert relative(found, noise) > 0.1


@pytest.mark.parametrize("name", list(FAMILIES))
def test_a_batch_gives_what_its_samples_give_alone(name):
    family, pipeline = FAMILIES[name], PIPELINES[name](seed=2)
    prompts = ["a cat", "the big blue dog on a tree in the river photo"]
    noise = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        together = our_latents(family, pipeline, prompts, noise, (32, 32), 4, 1.0)
        alone = [our_latents(family, pipeline, [p], noise[i : i + 1], (32, 32), 4, 1.0) for i, p in enumerate(prompts)]
    assert relative(together, torch.cat(alone)) < 1e-5
    assert relative(alone[0], alone[1]) > 0.1


@pytest.mark.parametrize("dynamic", [True, False])
@pytest.mark.parametrize("make", [sd3_pipeline, z_image_pipeline])
def test_sigma_grid_is_the_pipelines_for_every_resolution(make, dynamic):
    from diffusers import FlowMatchEulerDiscreteScheduler

    pipeline = make(seed=0)
    family = next(f for f in FAMILIES.values() if f.pipeline_class == type(pipeline).__name__)
    pipeline.scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=dynamic)
    grids = []
    for width, height in ((32, 32), (64, 32)):
        pipeline(PROMPT, width=width, height=height, num_inference_steps=16, guidance_scale=0.0, output_type="latent")
        expected = pipeline.scheduler.sigmas.clone()
        found = family.sigmas(pipeline.scheduler, pipeline.transformer.config, 16, (height // 2, width // 2))
        assert torch.equal(found, expected)
        grids.append(found)
    assert torch.equal(grids[0], grids[1]) != dynamic


def test_sd3_grid_ends_where_the_shift_is_applied_twice():
    pipeline = sd3_pipeline()
    grid = FAMILIES["sd3"].sigmas(pipeline.scheduler, pipeline.transformer.config, 16, (16, 16))
    assert [round(float(s), 4) for s in grid[-3:]] == [0.183, 0.0089, 0.0]


@pytest.mark.parametrize("name", list(FAMILIES))
def test_sizes_that_the_model_takes(name):
    config = PIPELINES[name]().transformer.config
    limits = FAMILIES[name].size_limits(config, 2)
    assert (limits.multiple, limits.maximum) == (4, {"sd3": 64, "z_image": 128}[name])


def test_attention_backends_by_name():
    for name in FAMILIES:
        transformer = PIPELINES[name]().transformer
        FAMILIES[name].select_attention(transformer, "sdpa")
        with pytest.raises(ValueError):
            FAMILIES[name].select_attention(transformer, "no_such_backend")
    transformer = PIPELINES["z_image"]().transformer
    FAMILIES["z_image"].select_attention(transformer, "_native_math")
    assert transformer.layers[0].attention.processor._attention_backend.value == "_native_math"
    transformer.reset_attention_backend()

"""Each family against its own diffusers pipeline, on tiny random models."""

import pytest
import torch

from danceopd_ext.models.conditions import edit_item
from danceopd_ext.models.registry import FAMILIES
from tests.tiny.calls import conditions, noise_for, ours, pictures, relative, theirs
from tests.tiny.families.sd3 import sd3_pipeline
from tests.tiny.pipelines import ALL

PROMPT = "a red cat on the house"
SCALES = [(name, scale) for name in FAMILIES for scale in (1.0, 4.5) if (name, scale) != ("flux_2", 4.5)]  # has no CFG


@pytest.mark.parametrize("size", [(32, 32), (48, 32)])
@pytest.mark.parametrize("name, scale", SCALES)
def test_our_sampler_gives_the_pipelines_latents(name, scale, size):
    family, pipeline = FAMILIES[name], ALL[name](seed=1)
    noise = noise_for(family, pipeline, size)
    expected = theirs(family, pipeline, PROMPT, noise, size, scale)
    found = ours(family, pipeline, conditions(family, pipeline, [PROMPT]), noise, scale)
    assert relative(found, expected) < 1e-4
    assert relative(found, noise) > 0.1


@pytest.mark.parametrize("name", list(FAMILIES))
def test_a_batch_gives_what_its_samples_give_alone(name, small_sources):
    """Whatever the lengths of their prompts and, where a family edits, the sizes of their source images."""
    family, pipeline = FAMILIES[name], ALL[name](seed=2)
    prompts = ["a cat", "the big blue dog on a tree in the river photo", "old house"]
    images = [[picture] for picture in pictures(3)] if family.can_edit else None
    together = conditions(family, pipeline, prompts, images)
    noise = noise_for(family, pipeline, (32, 32), samples=3)
    scale = 1.0 if name == "flux_2" else 2.0
    batch = ours(family, pipeline, together, noise, scale)
    alone = [ours(family, pipeline, together.select([i]), noise[i : i + 1], scale) for i in range(3)]
    assert relative(batch, torch.cat(alone)) < 1e-5
    assert relative(alone[0], alone[1]) > 0.1


@pytest.mark.parametrize("dynamic", [True, False])
@pytest.mark.parametrize("name", list(FAMILIES))
def test_sigma_grid_is_the_pipelines_for_every_resolution(name, dynamic):
    from diffusers import FlowMatchEulerDiscreteScheduler

    family, pipeline = FAMILIES[name], ALL[name](seed=0)
    pipeline.scheduler = FlowMatchEulerDiscreteScheduler.from_config(
        pipeline.scheduler.config, use_dynamic_shifting=dynamic
    )
    grids = []
    for size in ((32, 32), (64, 32)):
        noise = noise_for(family, pipeline, size)
        theirs(family, pipeline, PROMPT, noise, size, steps=16)
        found = family.sigmas(pipeline.scheduler, pipeline.transformer.config, 16, tuple(noise.shape[-2:]))
        assert torch.equal(found, pipeline.scheduler.sigmas)
        grids.append(found)
    assert torch.equal(grids[0], grids[1]) != dynamic


def test_sd3_grid_ends_where_the_shift_is_applied_twice():
    pipeline = sd3_pipeline()
    grid = FAMILIES["sd3"].sigmas(pipeline.scheduler, pipeline.transformer.config, 16, (16, 16))
    assert [round(float(s), 4) for s in grid[-3:]] == [0.183, 0.0089, 0.0]


@pytest.mark.parametrize("name", list(FAMILIES))
def test_sizes_that_the_model_takes(name):
    config = ALL[name]().transformer.config
    limits = FAMILIES[name].size_limits(config, 2)
    assert (limits.multiple, limits.maximum) == (4, {"sd3": 64, "z_image": 128, "z_image_omni": 256}.get(name, 4096))


def test_attention_backends_by_name():
    for name in FAMILIES:
        transformer = ALL[name]().transformer
        FAMILIES[name].select_attention(transformer, "sdpa")
        with pytest.raises(ValueError):
            FAMILIES[name].select_attention(transformer, "no_such_backend")
    transformer = ALL["z_image"]().transformer
    FAMILIES["z_image"].select_attention(transformer, "_native_math")
    assert transformer.layers[0].attention.processor._attention_backend.value == "_native_math"
    transformer.reset_attention_backend()


@pytest.mark.parametrize("name, told", [("flux", 3.5), ("flux_kontext", 2.5), ("flux_2", 4.0)])
def test_the_guidance_embedding_is_told_what_people_draw_with(name, told):
    """That is the pipeline's default, but for Kontext, whose model card draws with 2.5."""
    import inspect

    family, pipeline = FAMILIES[name], ALL[name](seed=1)
    assert family.embedded_guidance == told
    default = inspect.signature(type(pipeline).__call__).parameters["guidance_scale"].default
    assert default == (3.5 if name == "flux_kontext" else told)
    noise = noise_for(family, pipeline, (32, 32))
    condition = conditions(family, pipeline, [PROMPT])
    usual = ours(family, pipeline, condition, noise)
    other = type(family)()
    other.embedded_guidance = 1.0
    assert relative(ours(other, pipeline, condition, noise), usual) > 1e-3


def test_unconditional_keeps_sources_and_takes_the_items_own_negative():
    from danceopd_ext.models.conditions import TextConditions

    def value(number):
        return torch.tensor([float(number)])

    plain = {"embeds": value(1), "source_0": value(2)}
    own = edit_item({"embeds": value(3)}, {"source_0": value(4)}, {"embeds": value(5), "source_glance_0": value(6)})
    assert "negative_source_glance_0" not in own
    batch = TextConditions([plain, own], {"embeds": value(0)}).unconditional()
    assert [{k: float(v) for k, v in item.items()} for item in batch.items] == [
        {"embeds": 0.0, "source_0": 2.0},
        {"embeds": 5.0, "source_0": 4.0},
    ]

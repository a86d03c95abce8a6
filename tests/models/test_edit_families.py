"""Families that edit against their own pipelines, with one source image and with two."""

import pytest
import torch
from diffusers.pipelines.flux import pipeline_flux_kontext
from diffusers.pipelines.flux2.image_processor import Flux2ImageProcessor
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit
from PIL import Image

from danceopd_ext.errors import UserError
from danceopd_ext.models.flux import kontext_size
from danceopd_ext.models.registry import FAMILIES
from danceopd_ext.models.resizing import GLANCE_AREA, SOURCE_AREA, at_most, of_area
from tests.tiny.calls import conditions, noise_for, ours, pictures, relative, theirs
from tests.tiny.packed_pipelines import ALL

PROMPT = "a red cat on the house"
EDITING = [name for name, family in FAMILIES.items() if family.can_edit]
CASES = [
    (name, count, scale, size)
    for name in EDITING
    for count in (1, 2)
    for scale, size in ((1.0, (32, 32)), (1.0, (48, 32)), (3.0, (48, 32)))
    if count <= FAMILIES[name].max_sources and (name, scale) != ("flux_2", 3.0)  # its pipeline has no CFG
]


def pipeline_of(name, seed=1):
    pipeline = ALL[name](seed)
    if name == "z_image_omni":
        pipeline.vae.to(torch.bfloat16)  # its pipeline hands pictures over so
    return pipeline


def test_which_families_edit():
    assert set(EDITING) == {
        "flux_kontext", "flux_2", "flux_2_klein", "qwen_image_edit", "qwen_image_edit_plus", "z_image_omni",
    }  # fmt: skip
    assert {name for name, family in FAMILIES.items() if family.needs_source} == {
        "qwen_image_edit", "qwen_image_edit_plus",
    }  # fmt: skip


@pytest.mark.parametrize("name, count, scale, size", CASES)
def test_edits_are_the_pipelines(name, count, scale, size, small_sources):
    family, pipeline = FAMILIES[name], pipeline_of(name)
    noise, images = noise_for(family, pipeline, size), pictures(count)
    expected = theirs(family, pipeline, PROMPT, noise, size, scale, images)
    found = ours(family, pipeline, conditions(family, pipeline, [PROMPT], [images]), noise, scale)
    assert relative(found, expected) < 1e-4
    grid = family.sigmas(pipeline.scheduler, pipeline.transformer.config, 4, tuple(noise.shape[-2:]))
    assert torch.equal(grid, pipeline.scheduler.sigmas)


@pytest.mark.parametrize("name", EDITING)
def test_the_source_image_and_its_order_count(name, small_sources):
    family, pipeline = FAMILIES[name], pipeline_of(name)
    noise, images = noise_for(family, pipeline, (32, 32)), pictures(2)

    def drawn(own):
        return ours(family, pipeline, conditions(family, pipeline, [PROMPT], [own]), noise)

    assert relative(drawn(images[:1]), drawn(images[1:])) > 1e-3
    if family.max_sources > 1:
        assert relative(drawn(images), drawn(images[::-1])) > 1e-4


@pytest.mark.parametrize("name", EDITING)
def test_a_batch_of_unlike_sources_gives_what_its_samples_give_alone(name, small_sources):
    """Other sizes, other numbers of sources, and none where that is possible."""
    family, pipeline = FAMILIES[name], pipeline_of(name)
    images = [pictures(1), pictures(min(2, family.max_sources))[::-1], pictures(1)]
    batch = conditions(family, pipeline, ["a cat", "the big blue dog", "a dog"], images)
    if not family.needs_source:
        batch.items.append(family.encode_prompts(pipeline, ["a house"])[0])
    noise = noise_for(family, pipeline, (32, 32), samples=len(batch))
    sigma = torch.tensor([0.9, 0.5, 0.3, 0.7])[: len(batch)]
    with torch.no_grad():
        together = family.velocity(pipeline.transformer, noise, sigma, batch)
        alone = [
            family.velocity(pipeline.transformer, noise[i : i + 1], sigma[i : i + 1], batch.select([i]))
            for i in range(len(batch))
        ]
    assert together.shape == noise.shape
    assert together.dtype == torch.float32
    assert relative(together, torch.cat(alone)) < 1e-5


@pytest.mark.parametrize("name", EDITING)
def test_gradients_reach_every_sample_of_an_unlike_batch(name, small_sources):
    family, pipeline = FAMILIES[name], pipeline_of(name)
    images = [pictures(1), pictures(2)[1:]]
    batch = conditions(family, pipeline, ["a cat", "the big blue dog"], images)
    noise = noise_for(family, pipeline, (32, 32), samples=2).requires_grad_()
    family.velocity(pipeline.transformer, noise, torch.tensor([0.9, 0.5]), batch).square().sum().backward()
    assert all(float(gradient.norm()) > 0 for gradient in noise.grad)


@pytest.mark.parametrize("name", EDITING)
def test_what_a_condition_holds(name, small_sources):
    """No batch axis; sources are latents in the pipeline's size, on the CPU and in one piece."""
    family, pipeline = FAMILIES[name], pipeline_of(name)
    sources = family.encode_sources(pipeline.vae, pictures(min(2, family.max_sources)))
    assert list(sources) == [f"source_{i}" for i in range(min(2, family.max_sources))]
    channels = noise_for(family, pipeline, (32, 32)).shape[1]
    sizes = {
        "flux_kontext": [(20, 20)],
        "flux_2": [(16, 20), (26, 16)], "flux_2_klein": [(16, 20), (26, 16)],
        "qwen_image_edit": [(32, 32)], "qwen_image_edit_plus": [(32, 32), (48, 32)],
        "z_image_omni": [(32, 40), (52, 32)],
    }[name]  # fmt: skip
    assert [tuple(tensor.shape) for tensor in sources.values()] == [(channels, *size) for size in sizes]
    assert all(tensor.is_contiguous() and tensor.device.type == "cpu" for tensor in sources.values())


def test_wrong_numbers_and_sizes_of_sources():
    kontext, vae = FAMILIES["flux_kontext"], ALL["flux_kontext"]().vae
    for images in ([], pictures(2)):
        with pytest.raises(UserError, match=rf"FLUX.1 Kontext takes 1 to 1 source images, not {len(images)}"):
            kontext.encode_sources(vae, images)
    with pytest.raises(UserError, match="Qwen-Image takes no source images"):
        FAMILIES["qwen_image"].encode_sources(ALL["qwen_image"]().vae, pictures(1))
    for name in ("flux_2", "z_image_omni"):
        for size in ((63, 100), (64, 513)):
            with pytest.raises(UserError, match=f"{size[0]} x {size[1]} is too small or too long"):
                FAMILIES[name].source_picture(Image.new("RGB", size), 8)
    for name in ("qwen_image_edit", "qwen_image_edit_plus"):
        for sources in (None, [[]]):
            with pytest.raises(UserError, match="every prompt needs a source image"):
                FAMILIES[name].encode_prompts(ALL[name](), ["a cat"], sources)


def test_pictures_of_other_modes_are_taken(small_sources):
    family, pipeline = FAMILIES["flux_2"], ALL["flux_2"]()
    picture = pictures(1)[0].convert("L")
    expected = family.encode_sources(pipeline.vae, [picture.convert("RGB")])["source_0"]
    assert torch.equal(family.encode_sources(pipeline.vae, [picture])["source_0"], expected)


SIZES = [(512, 512), (1000, 700), (1023, 1025), (300, 2000), (4000, 3000), (1920, 1080), (64, 512), (777, 1333)]


@pytest.mark.parametrize("size", SIZES)
def test_source_sizes_are_the_pipelines(size):
    """In true sizes, where the pictures themselves would be slow to encode."""
    for area in (SOURCE_AREA, GLANCE_AREA):
        expected = pipeline_qwenimage_edit.calculate_dimensions(area, size[0] / size[1])[:2]
        assert of_area(size, area) == expected
    image = Image.new("RGB", size)
    shrunk = Flux2ImageProcessor._resize_if_exceeds_area(image, SOURCE_AREA)
    assert at_most(size, SOURCE_AREA) == shrunk.size
    assert FAMILIES["flux_2"].source_picture(image, 8).size == tuple(side // 16 * 16 for side in shrunk.size)
    assert kontext_size(size) in pipeline_flux_kontext.PREFERRED_KONTEXT_RESOLUTIONS


@pytest.mark.parametrize(
    "size, expected", [((512, 512), (1024, 1024)), ((1920, 1080), (1392, 752)), ((300, 2000), (672, 1568))]
)
def test_kontext_takes_the_size_with_the_nearest_proportions(size, expected):
    assert kontext_size(size) == expected

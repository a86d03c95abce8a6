"""Families that edit against their own pipelines, with one source image and with two."""

import numpy as np
import pytest
import torch
from diffusers.pipelines.flux import pipeline_flux_kontext
from diffusers.pipelines.flux2.image_processor import Flux2ImageProcessor
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit
from PIL import Image

from danceopd_ext.errors import UserError
from danceopd_ext.models.family import Sources
from danceopd_ext.models.flux import kontext_size
from danceopd_ext.models.registry import FAMILIES
from danceopd_ext.models.resizing import GLANCE_AREA, SOURCE_AREA, at_most, of_area
from tests.tiny.calls import conditions, drawing, noise_for, ours, pictures, relative, theirs
from tests.tiny.pipelines import ALL

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


@pytest.mark.parametrize("name, count, scale, size", CASES)
def test_edits_are_the_pipelines(name, count, scale, size, small_sources):
    family, pipeline = FAMILIES[name], pipeline_of(name)
    noise, images = noise_for(family, pipeline, size), pictures(count)
    expected = theirs(family, pipeline, PROMPT, noise, size, scale, images)
    found = ours(family, pipeline, conditions(family, pipeline, [PROMPT], [images], size), noise, scale)
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
    """Other sizes, other numbers of sources, and none."""
    family, pipeline = FAMILIES[name], pipeline_of(name)
    images = [pictures(1), pictures(min(2, family.max_sources))[::-1], pictures(1)]
    batch = conditions(family, pipeline, ["a cat", "the big blue dog", "a dog"], images)
    batch.items.append(family.encode_prompts(pipeline, ["a house"])[0])
    noise = noise_for(family, pipeline, (32, 32), samples=len(batch))
    sigma = torch.tensor([0.9, 0.5, 0.3, 0.7])
    with torch.no_grad():
        together = family.velocity(pipeline.transformer, noise, sigma, batch)
        alone = [
            family.velocity(pipeline.transformer, noise[i : i + 1], sigma[i : i + 1], batch.select([i]))
            for i in range(len(batch))
        ]
    assert together.shape == noise.shape
    assert together.dtype == torch.float32
    assert relative(together, torch.cat(alone)) < 1e-5


@pytest.mark.parametrize("name", [name for name in EDITING if FAMILIES[name].text_sees_sources])
def test_prompts_with_and_without_sources_are_encoded_together(name, small_sources):
    """Each as it is alone."""
    family, pipeline = FAMILIES[name], pipeline_of(name)
    prompts, given = ["a cat", "the big blue dog", ""], [Sources(own, (32, 32)) for own in ([], pictures(1), [])]
    found = family.encode_prompts(pipeline, prompts, given)
    alone = [
        *family.encode_prompts(pipeline, prompts[:1]),
        *family.encode_prompts(pipeline, prompts[1:2], given[1:2]),
        *family.encode_prompts(pipeline, prompts[2:]),
    ]
    for one, other in zip(found, alone, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("name", ["qwen_image_edit", "qwen_image_edit_plus"])
def test_a_prompt_without_a_source_is_read_as_qwen_image_reads_it(name):
    pipeline = pipeline_of(name)
    for prompt in (PROMPT, ""):
        (found,) = FAMILIES[name].encode_prompts(pipeline, [prompt])
        expected, mask = drawing(pipeline).encode_prompt(prompt)
        assert mask is None
        assert torch.equal(found["embeds"], expected[0])


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
    sources = family.encode_sources(pipeline.vae, Sources(pictures(min(2, family.max_sources)), (32, 32)))
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
            kontext.encode_sources(vae, Sources(images, (32, 32)))
    with pytest.raises(UserError, match="Qwen-Image takes no source images"):
        FAMILIES["qwen_image"].encode_sources(ALL["qwen_image"]().vae, Sources(pictures(1), (32, 32)))
    for name in ("flux_2", "z_image_omni"):
        for size in ((63, 100), (64, 513)):
            with pytest.raises(UserError, match=f"{size[0]} x {size[1]} is too small or too elongated"):
                FAMILIES[name].source_picture(Image.new("RGB", size), 8, (512, 512))


def test_pictures_of_other_modes_are_taken(small_sources):
    family, pipeline = FAMILIES["flux_2"], ALL["flux_2"]()
    picture = pictures(1)[0].convert("L")
    deep = Image.fromarray(np.asarray(picture).astype(np.uint16) * 257)
    expected = family.encode_sources(pipeline.vae, Sources([picture.convert("RGB")], (32, 32)))["source_0"]
    for same in (picture, deep):
        assert torch.equal(family.encode_sources(pipeline.vae, Sources([same], (32, 32)))["source_0"], expected)
    with pytest.raises(UserError, match="cannot use a source image: its pixels are 32-bit numbers"):
        family.encode_sources(pipeline.vae, Sources([picture.convert("F")], (32, 32)))


SIZES = [
    (512, 512), (1000, 700), (1023, 1025), (1024, 1024), (300, 2000), (4000, 3000), (2000, 1500), (1920, 1080),
    (64, 512), (777, 1333),
]  # fmt: skip
#: sizes of the picture that is drawn
DRAWN = [(512, 512), (768, 512), (1024, 1024), (1536, 1536)]


@pytest.mark.parametrize("size", SIZES)
def test_source_sizes_are_the_pipelines(size):
    """In true sizes, where the pictures themselves would be slow to encode."""
    for area in (SOURCE_AREA, GLANCE_AREA):
        expected = pipeline_qwenimage_edit.calculate_dimensions(area, size[0] / size[1])[:2]
        assert of_area(size, area) == expected
    image = Image.new("RGB", size)
    shrunk = Flux2ImageProcessor._resize_if_exceeds_area(image, SOURCE_AREA)
    assert at_most(size, SOURCE_AREA) == shrunk.size
    for drawn in DRAWN:
        assert FAMILIES["flux_2"].source_picture(image, 8, drawn).size == tuple(side // 16 * 16 for side in shrunk.size)
    assert kontext_size(size) in pipeline_flux_kontext.PREFERRED_KONTEXT_RESOLUTIONS


class Enough(Exception):
    """A pipeline was stopped: what was asked of it is known."""


def omni_of_true_size():
    """Z-Image-Omni's pipeline with the true sizes of latents, which stops when it knows its source image's sizes.

    Returns it with a list of what it found: the size that the VAE gets, and the size that the vision encoder gets.
    """
    pipeline, found = ALL["z_image_omni"](), []
    pipeline.vae_scale_factor, pipeline.image_processor = 8, Flux2ImageProcessor(vae_scale_factor=16)

    def encoded(images, **rest):
        found.append((images[0].shape[3], images[0].shape[2]))
        return [[]]

    def seen(images, **rest):
        found.append(images[0].size)
        raise Enough

    pipeline.prepare_image_latents, pipeline.prepare_siglip_embeds = encoded, seen
    return pipeline, found


@pytest.mark.parametrize("drawn", DRAWN)
@pytest.mark.parametrize("size", SIZES)
def test_omni_takes_source_images_in_the_sizes_of_its_pipeline(size, drawn):
    """The VAE and the vision encoder alike: a large source image follows the picture that is drawn."""
    pipeline, found = omni_of_true_size()
    image = Image.new("RGB", size)
    with pytest.raises(Enough):
        pipeline([image], prompt_embeds=[[]], guidance_scale=0, width=drawn[0], height=drawn[1])
    vae, glance = found
    assert FAMILIES["z_image_omni"].source_picture(image, 8, drawn).size == vae
    assert FAMILIES["z_image_omni"].source_size(size, 8, drawn) == vae
    with pytest.raises(Enough):
        FAMILIES["z_image_omni"].encode_prompts(pipeline, [PROMPT], [Sources([image], drawn)])
    assert found[-1] == glance


@pytest.mark.parametrize("size", [(32, 32), (48, 64)])
def test_omni_edits_a_large_source_image_as_its_pipeline_does(size):
    """Above a million pixels it is brought to the size of what is drawn: with small pictures that is quick."""
    family, pipeline = FAMILIES["z_image_omni"], pipeline_of("z_image_omni")
    images = [Image.effect_noise((1200, 900), 60).convert("RGB").resize((60, 45)).resize((1200, 900)), *pictures(1)]
    noise = noise_for(family, pipeline, size)
    expected = theirs(family, pipeline, PROMPT, noise, size, 3.0, images)
    condition = conditions(family, pipeline, [PROMPT], [images], size)
    assert relative(ours(family, pipeline, condition, noise, 3.0), expected) < 1e-4
    other = conditions(family, pipeline, [PROMPT], [images], (96, 96))
    assert relative(ours(family, pipeline, other, noise, 3.0), expected) > 1e-3


@pytest.mark.parametrize(
    "size, expected", [((512, 512), (1024, 1024)), ((1920, 1080), (1392, 752)), ((300, 2000), (672, 1568))]
)
def test_kontext_takes_the_size_with_the_nearest_proportions(size, expected):
    assert kontext_size(size) == expected

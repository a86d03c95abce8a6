"""What a family says about source images before any is encoded."""

import pytest
from PIL import Image

from danceopd_ext.errors import UserError
from danceopd_ext.models.family import Sources
from danceopd_ext.models.registry import FAMILIES
from tests.tiny.calls import pictures
from tests.tiny.pipelines import ALL

EDITING = [name for name, family in FAMILIES.items() if family.can_edit]
DRAWN = (32, 32)


@pytest.mark.parametrize("name", EDITING)
def test_the_size_of_a_source_image_is_known_without_it(name, small_sources):
    family, pipeline = FAMILIES[name], ALL[name]()
    scale = pipeline.vae_scale_factor
    for image in [*pictures(3), Image.effect_noise((200, 90), 30)]:
        (latents,) = family.encode_sources(pipeline.vae, Sources([image], DRAWN)).values()
        width, height = family.source_size(image.size, scale, DRAWN)
        assert tuple(latents.shape) == family.latent_shape(pipeline.transformer.config, scale, width, height)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_says_whether_its_texts_depend_on_the_source_image(name, small_sources):
    family, pipeline = FAMILIES[name], ALL[name]()
    one, other = (
        family.encode_prompts(pipeline, ["a cat"], [Sources([image], DRAWN)] if family.can_edit else None)[0]
        for image in pictures(2)
    )
    same = one.keys() == other.keys() and all(one[key].equal(other[key]) for key in one)
    assert same != family.text_sees_sources


@pytest.mark.parametrize("name", EDITING)
def test_a_family_says_whether_source_images_follow_the_picture_that_is_drawn(name):
    family, drawn = FAMILIES[name], ((512, 512), (768, 768))
    areas = [family.scaled_area((2000, 1500), size) for size in drawn]
    sizes = [family.source_size((2000, 1500), 8, size) for size in drawn]
    if name == "z_image_omni":
        assert areas == [512 * 512, 768 * 768]
        assert sizes == [(576, 432), (880, 656)]
    else:
        assert areas == [None, None]
        assert sizes[0] == sizes[1]
    assert family.scaled_area((1024, 1024), (512, 512)) is None


def test_a_size_that_the_pipeline_does_not_take_is_refused():
    with pytest.raises(UserError, match="too small"):
        FAMILIES["flux_2"].source_size((32, 32), 8, DRAWN)
    with pytest.raises(UserError, match="does not take source images"):
        FAMILIES["sd3"].source_size((64, 64), 8, DRAWN)

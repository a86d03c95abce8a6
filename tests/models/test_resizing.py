"""Sizes of source pictures that leave nothing of a side."""

import pytest
from PIL import Image

from danceopd_ext.data.source_images import SourceImages
from danceopd_ext.errors import UserError
from danceopd_ext.models.flux import kontext_size
from danceopd_ext.models.registry import FAMILIES
from danceopd_ext.models.resizing import floor_to, of_area


@pytest.mark.parametrize("size", [(100, 10), (15, 15), (1, 400)])
def test_kontext_takes_no_picture_below_a_token(size):
    with pytest.raises(
        UserError,
        match=f"A picture of {size[0]} x {size[1]} is too small or too elongated: each side must have 16 pixels",
    ):
        kontext_size(size)


def test_the_smallest_that_is_left():
    assert floor_to((16, 31), 16) == (16, 16)
    assert of_area((1000, 10), 1024 * 1024) == (10240, 96)


def test_qwen_takes_no_picture_that_is_only_a_line():
    for name in ("qwen_image_edit", "qwen_image_edit_plus"):
        with pytest.raises(UserError, match="9000 x 1 is too small or too elongated"):
            FAMILIES[name].source_size((9000, 1), 8, (512, 512))


def test_the_trainer_names_the_picture_and_whose_it_is(tmp_path):
    path = tmp_path / "thin.png"
    Image.new("RGB", (100, 10)).save(path)
    family = FAMILIES["flux_kontext"]
    rules = SourceImages(family.title, maximum=1, fitted=lambda size, drawn: family.source_size(size, 8, drawn))
    with pytest.raises(UserError, match=r"prompts\.csv, line 2: .*thin\.png cannot be used.* 100 x 10"):
        rules.sizes([path], (512, 512), "prompts.csv, line 2")

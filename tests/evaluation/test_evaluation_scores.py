import numpy as np
import pytest
from PIL import Image

from danceopd_ext.evaluation.report import markdown
from danceopd_ext.evaluation.scores import preservation


def picture(seed: int = 0, size: int = 100) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


def test_an_untouched_picture_is_kept_whole():
    image = Image.fromarray(picture())
    assert preservation(image, image) == {"kept": 1.0, "outside_psnr": 99.0}


def test_a_changed_square_counts_by_its_area_and_leaves_the_rest_equal():
    source = np.full((100, 100, 3), 100, dtype=np.uint8)
    edited = source.copy()
    edited[10:30, 10:60] = 250
    found = preservation(Image.fromarray(source), Image.fromarray(edited))
    assert found["kept"] == pytest.approx(1 - 20 * 50 / 100**2)
    assert found["outside_psnr"] == 99.0


def test_damage_as_strong_as_an_edit_is_in_what_was_kept_and_not_in_the_ratio():
    """No benchmark says where an edit belongs; README and docstring tell to read the two together."""
    source = np.full((100, 100, 3), 100, dtype=np.uint8)
    asked = source.copy()
    asked[10:20, 10:20] = 250
    ruined = asked.copy()
    ruined[50:] = 0
    good, bad = (preservation(Image.fromarray(source), Image.fromarray(edited)) for edited in (asked, ruined))
    assert (good["kept"], bad["kept"]) == (pytest.approx(0.99), pytest.approx(0.49))
    assert good["outside_psnr"] == bad["outside_psnr"] == 99.0


def test_noise_outside_the_changed_area_is_measured_in_decibel():
    source = np.full((100, 100, 3), 100, dtype=np.uint8)
    edited = source + np.uint8(5)  # below what counts as changed
    edited[10:30, 10:60] = 250
    expected = -10 * np.log10((5 / 255) ** 2)
    found = preservation(Image.fromarray(source), Image.fromarray(edited))
    assert found["outside_psnr"] == pytest.approx(expected, rel=1e-4)


def test_a_picture_that_changed_everywhere_has_no_outside():
    black, white = (Image.fromarray(np.full((20, 20, 3), v, dtype=np.uint8)) for v in (0, 255))
    assert preservation(black, white) == {"kept": 0.0}


def test_another_size_is_compared_at_the_size_of_the_edit():
    image = Image.new("RGB", (40, 40), (10, 200, 90))
    assert preservation(image.resize((80, 80)), image)["kept"] == 1.0


def test_the_table_has_a_row_for_each_model_and_kind():
    table = markdown({"base": {"counting": {"clip": 20.0}, "all": {"clip": 20.0}}, "fused": {"all": {"kept": 0.5}}})
    assert table.splitlines() == [
        "| model | prompts | clip | kept |",
        "|---|---|---:|---:|",
        "| base | counting | 20.000 |  |",
        "| base | all | 20.000 |  |",
        "| fused | all |  | 0.500 |",
    ]

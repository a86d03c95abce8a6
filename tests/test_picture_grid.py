"""The picture grid: size, place of the pictures, marks."""

import numpy as np
from PIL import ImageFont

from danceopd_ext.picture_grid import GAP, LARGEST, RIGHT, TEXT_WIDTH, WRONG, draw_grid, wrap

SIDE = 128


def pictures(value, side=32, height=None):
    return [np.full((height or side, side, 3), value, np.uint8)] * 2


def test_pictures_stand_in_their_row_and_column():
    grid = np.asarray(draw_grid(["a", "b"], {"first": pictures(10), "second": pictures(90)}))
    assert grid.shape[1] == GAP + TEXT_WIDTH + 2 * (SIDE + GAP)
    for column, value in ((0, 10), (1, 90)):
        left = GAP + TEXT_WIDTH + column * (SIDE + GAP)
        assert (grid == value).all(axis=-1)[:, left : left + SIDE].sum() == 2 * SIDE * SIDE


def test_large_pictures_are_shrunk_in_shape():
    grid = np.asarray(draw_grid(["a", "b"], {"x": pictures(10, side=1024, height=512)}))
    assert (grid == 10).all(axis=-1).sum() == 2 * LARGEST * LARGEST // 2


def test_marks_tell_right_from_wrong():
    grid = np.asarray(draw_grid(["a", "b"], {"x": pictures(0)}, {"x": [True, False]}))
    middle = grid.shape[0] - (SIDE + GAP)  # where the second row begins
    for half, there, absent in ((grid[:middle], RIGHT, WRONG), (grid[middle:], WRONG, RIGHT)):
        assert (half == there).all(axis=-1).any()
        assert not (half == absent).all(axis=-1).any()
    assert (grid == 0).all(axis=-1).sum() == 2 * SIDE * SIDE


def test_long_prompts_are_wrapped_between_words():
    font = ImageFont.load_default(13)
    text = "a hollow red circle at the top left on a checkered white background"
    lines = wrap(text, 150, font).split("\n")
    assert " ".join(lines) == text
    assert len(lines) > 1
    assert all(font.getlength(line) <= 150 for line in lines)

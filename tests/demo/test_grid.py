"""The picture grid: size, place of the pictures, marks."""

import numpy as np
from PIL import ImageFont

from danceopd_ext.demo.grid import ENLARGE, GAP, RIGHT, TEXT_WIDTH, WRONG, draw_grid, wrap


def make(value: int) -> np.ndarray:
    return np.full((2, 32, 32, 3), value, np.uint8)


def test_pictures_stand_in_their_row_and_column():
    grid = np.asarray(draw_grid(["a", "b"], {"first": make(10), "second": make(90)}))
    side = 32 * ENLARGE
    assert grid.shape[1] == GAP + TEXT_WIDTH + 2 * (side + GAP)
    for column, value in ((0, 10), (1, 90)):
        left = GAP + TEXT_WIDTH + column * (side + GAP)
        assert (grid == value).all(axis=-1)[:, left : left + side].sum() == 2 * side * side


def test_marks_tell_right_from_wrong():
    grid = np.asarray(draw_grid(["a", "b"], {"x": make(0)}, {"x": [True, False]}))
    middle = grid.shape[0] - (32 * ENLARGE + GAP)  # where the second row begins
    assert (grid[:middle] == RIGHT).all(axis=-1).any() and not (grid[:middle] == WRONG).all(axis=-1).any()
    assert (grid[middle:] == WRONG).all(axis=-1).any() and not (grid[middle:] == RIGHT).all(axis=-1).any()


def test_long_prompts_are_wrapped_between_words():
    font = ImageFont.load_default(13)
    text = "a hollow red circle at the top left on a checkered white background"
    lines = wrap(text, 150, font).split("\n")
    assert " ".join(lines) == text
    assert len(lines) > 1
    assert all(font.getlength(line) <= 150 for line in lines)

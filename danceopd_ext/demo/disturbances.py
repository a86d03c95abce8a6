"""Disturbs pictures of the demo world as models do: shifts, blends, cuts, blur, noise, spots and near tones.

Pictures are uint8 [32, 32, 3].
"""

import numpy as np

from danceopd_ext.demo.edits import Edit
from danceopd_ext.demo.scene import CELL_SIZE, IMAGE_SIZE, Scene
from danceopd_ext.demo.world import render


def noisy(picture: np.ndarray, strength: float, random: np.random.Generator) -> np.ndarray:
    """Normal noise in every value; `strength` is its standard deviation in units of the full range 0..1."""
    return _picture(picture + random.normal(0, 255 * strength, picture.shape))


def blurred(picture: np.ndarray, strength: float) -> np.ndarray:
    """Smoothed by about a normal curve; `strength` is its standard deviation in pixels."""
    times = max(1, round(2 * strength**2))  # each pass adds at most half a square pixel of variance
    side = strength**2 / times / 2
    values = picture.astype(float)
    for _ in range(times):
        for axis in (0, 1):
            edge = np.concatenate([values.take([0], axis), values, values.take([-1], axis)], axis)
            before, after = edge.take(range(IMAGE_SIZE), axis), edge.take(range(2, IMAGE_SIZE + 2), axis)
            values = side * (before + after) + (1 - 2 * side) * values
    return _picture(values)


def spotted(picture: np.ndarray, strength: float, random: np.random.Generator) -> np.ndarray:
    """2 x 2 pixels somewhere go `strength` 0..1 of the way to the colour that is farthest from them."""
    top, left = random.integers(IMAGE_SIZE - 1, size=2)
    spot = picture[top : top + 2, left : left + 2]
    spoilt = picture.copy()
    spoilt[top : top + 2, left : left + 2] = blended(spot, np.where(spot < 128, 255, 0), strength)
    return spoilt


def shifted(picture: np.ndarray, right: int, down: int = 0) -> np.ndarray:
    """Moved by whole pixels; the edge is repeated."""
    place = np.arange(IMAGE_SIZE)
    rows, columns = (place - down).clip(0, IMAGE_SIZE - 1), (place - right).clip(0, IMAGE_SIZE - 1)
    return picture[rows][:, columns]


def blended(picture: np.ndarray, other: np.ndarray, part: float) -> np.ndarray:
    """`part` 0..1 of the way to another picture."""
    return _picture((1 - part) * picture.astype(float) + part * other)


def tinted(scene: Scene, strength: float) -> np.ndarray:
    """The scene on a near tone: its background is nearer to grey by `strength`, in units of the full range 0..1."""
    picture = render(scene).astype(float)
    background = picture == render(Scene((), scene.background, scene.checkered))
    return _picture(picture + background * np.where(picture < 128, 255, -255) * strength)


def half_edited(edit: Edit) -> np.ndarray:
    """The source up to the middle of a cell that changes, and the target from there on."""
    source, target = edit.source, edit.target
    cell = next((cell for cell in range(4) if source.at(cell) != target.at(cell)), 0)
    middle = (cell % 2) * CELL_SIZE + CELL_SIZE // 2
    return np.concatenate([render(source)[:, :middle], render(target)[:, middle:]], axis=1)


def _picture(values: np.ndarray) -> np.ndarray:
    return values.round().clip(0, 255).astype(np.uint8)

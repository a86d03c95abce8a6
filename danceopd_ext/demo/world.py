"""Draws a small world of pictures and reads them back exactly: every caption has one picture.

A scene is up to four objects in a 2x2 grid of cells on a background. Shapes in the arrays below:
N images, H = W = 32 pixels, C = 4 cells, B backgrounds, K contents of a cell, P = 768 numbers of a cell.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from danceopd_ext.demo.scene import (
    ARRANGEMENTS,
    BACKGROUNDS,
    CELL_SIZE,
    COLOURS,
    IMAGE_SIZE,
    SHAPES,
    CellReading,
    Scene,
    SceneObject,
    caption,
)
from danceopd_ext.demo.splits import Split, split_of

CHECK_SIZE = 4
OUTLINE = 1.9
TOLERANCE = 0.06
"""Largest root mean square error, in units of the full range 0..1, at which a picture still counts as drawn."""
LEAN = 0.15
"""Largest part of the way to another look at which a cell still counts as drawn; a half-filled triangle has 0.157."""
SPOT = 0.15
"""Largest mean error of 2 x 2 pixels, in 0..1, at which a cell still counts as drawn: a spot hardly counts in the error
of a whole cell. Of right drawings by the demo's models none had more than 0.101 (128 edits)."""


# ----------------------------------------------------------------------------- drawing


def _distance(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Signed distance to the outline in pixels, negative inside; x and y are measured from the cell's centre."""
    if shape == "circle":
        return np.hypot(x, y) - 6.6
    if shape == "square":
        return np.maximum(abs(x), abs(y)) - 5.8
    if shape == "triangle":
        slope = np.array([12.0, 6.0]) / np.hypot(12.0, 6.0)
        return np.maximum(abs(x) * slope[0] - (y + 7.0) * slope[1], y - 5.6)
    if shape == "cross":
        upright = np.maximum(abs(x) - 2.9, abs(y) - 6.8)
        return np.minimum(upright, np.maximum(abs(y) - 2.9, abs(x) - 6.8))
    raise ValueError(f"unknown shape {shape!r}; shapes are {', '.join(SHAPES)}")


@cache
def _mask(shape: str, hollow: bool) -> np.ndarray:
    """How much of each pixel of a cell the object covers: float32 [16, 16, 1] in 0..1."""
    samples = 8
    axis = (np.arange(CELL_SIZE * samples) + 0.5) / samples - CELL_SIZE / 2
    distance = _distance(shape, axis[None, :], axis[:, None])
    inside = (distance <= 0) & ((distance > -OUTLINE) if hollow else True)
    covered = inside.reshape(CELL_SIZE, samples, CELL_SIZE, samples).mean(axis=(1, 3))
    return covered[..., None].astype(np.float32)


def _draw_background(background: str, checkered: bool) -> np.ndarray:
    """float32 [32, 32, 3] in 0..255."""
    first, second = BACKGROUNDS[background]
    index = np.arange(IMAGE_SIZE) // CHECK_SIZE
    odd = (index[:, None] + index[None, :]) % 2 if checkered else np.zeros((IMAGE_SIZE, IMAGE_SIZE), int)
    return np.array([first, second], np.float32)[odd]


def _cell_slices(cell: int) -> tuple[slice, slice]:
    top, left = (cell // 2) * CELL_SIZE, (cell % 2) * CELL_SIZE
    return slice(top, top + CELL_SIZE), slice(left, left + CELL_SIZE)


def render(scene: Scene) -> np.ndarray:
    """The picture of a scene: uint8 [32, 32, 3]."""
    image = _draw_background(scene.background, scene.checkered)
    for item in scene.objects:
        mask = _mask(item.shape, item.hollow)
        where = _cell_slices(item.cell)
        image[where] = (1 - mask) * image[where] + mask * np.array(COLOURS[item.colour], np.float32)
    return image.round().astype(np.uint8)


# ----------------------------------------------------------------------------- reading


@cache
def _contents() -> tuple[tuple[str, str, bool] | None, ...]:
    """All K contents of a cell: nothing, or (shape, colour, hollow)."""
    looks = [(shape, colour, hollow) for shape in SHAPES for colour in COLOURS for hollow in (False, True)]
    return (None, *looks)


@cache
def _backgrounds() -> tuple[tuple[str, bool], ...]:
    """All B backgrounds: (name, checkered)."""
    return tuple((name, checkered) for name in BACKGROUNDS for checkered in (False, True))


def _to_cells(images: np.ndarray) -> np.ndarray:
    """[N, 32, 32, 3] -> [N, C, P]."""
    grid = images.reshape(-1, 2, CELL_SIZE, 2, CELL_SIZE, 3).transpose(0, 1, 3, 2, 4, 5)
    return grid.reshape(-1, 4, CELL_SIZE * CELL_SIZE * 3)


@cache
def cell_templates() -> np.ndarray:
    """What every cell looks like with every content on every background: float32 [B, K, C, P] in 0..1."""
    rows = []
    for name, checkered in _backgrounds():
        for content in _contents():
            shape, colour, hollow = content or ("", "", False)
            objects = tuple(SceneObject(shape, colour, cell, hollow) for cell in range(4)) if content else ()
            rows.append(render(Scene(objects, name, checkered)))
    cells = _to_cells(np.stack(rows).astype(np.float32) / 255)
    return cells.reshape(len(_backgrounds()), len(_contents()), 4, -1)


def scene_from_indices(background: int, contents: Sequence[int]) -> Scene:
    """The scene of a background's index 0..B-1 and four contents' indices 0..K-1."""
    name, checkered = _backgrounds()[background]
    looks = [_contents()[index] for index in contents]
    objects = tuple(SceneObject(look[0], look[1], cell, look[2]) for cell, look in enumerate(looks) if look)
    return Scene(objects, name, checkered)


def read_scenes(images: np.ndarray) -> list[tuple[Scene, float]]:
    """The nearest of all possible pictures, and its root mean square error in 0..1, for uint8 images [N, 32, 32, 3].

    Given the background, cells do not depend on each other, so the best content is chosen cell by cell
    and the nearest of B * K^4 pictures costs only B * K * C comparisons.
    """
    cells = _to_cells(images.astype(np.float32) / 255)
    templates = cell_templates()
    product = np.einsum("ncp,bkcp->nbkc", cells, templates, optimize=True)
    squared = (templates**2).sum(-1)[None] - 2 * product + (cells**2).sum(-1)[:, None, None, :]
    best = squared.argmin(axis=2)  # [N, B, C]
    error = squared.min(axis=2).sum(axis=-1)  # [N, B]
    background = error.argmin(axis=1)
    result = []
    for index, chosen in enumerate(background):
        mean = max(float(error[index, chosen]), 0.0) / (IMAGE_SIZE * IMAGE_SIZE * 3)
        result.append((scene_from_indices(chosen, best[index, chosen]), mean**0.5))
    return result


def read_scene(image: np.ndarray) -> tuple[Scene, float]:
    """`read_scenes` for one image, uint8 [32, 32, 3]."""
    return read_scenes(image[None])[0]


@cache
def _looks() -> tuple[np.ndarray, np.ndarray]:
    """All B * K looks of a cell, float32 [B * K, P] in 0..1, and the squared distances between them [B * K, B * K]."""
    looks = cell_templates()[:, :, 0].reshape(-1, CELL_SIZE * CELL_SIZE * 3)  # a look is the same in every cell
    squares = (looks.astype(np.float64) ** 2).sum(1)
    return looks, (squares[:, None] + squares - 2 * looks.astype(np.float64) @ looks.T).astype(np.float32)


def read_cells(images: np.ndarray) -> list[tuple[CellReading, ...]]:
    """The four cells of uint8 images [N, 32, 32, 3], each read on its own: the nearest look, and how clear it is.

    A small error alone does not tell a drawing from a blend of two looks that are near to each other (a filled circle
    and square); the lean does, and noise and blur, which go towards no other look, hardly change it. Nor does it show a
    spot; the largest local error does.
    """
    looks, apart = _looks()
    cells = _to_cells(images.astype(np.float32) / 255).reshape(-1, looks.shape[1])
    squared = (looks**2).sum(1) - 2 * cells @ looks.T + (cells**2).sum(1)[:, None]  # [4 N, B * K]
    nearest, rows = squared.argmin(axis=1), np.arange(len(cells))
    least = squared[rows, nearest]
    gap = apart[nearest]
    gap[rows, nearest] = np.inf
    leans = (0.5 - (squared - least[:, None]) / (2 * gap)).clip(0)
    leans[rows, nearest] = 0
    errors = (least.clip(0) / looks.shape[1]) ** 0.5
    measures = zip(errors.tolist(), leans.max(axis=1).tolist(), _spots(cells, looks[nearest]).tolist(), strict=True)
    read = []
    for index, (error, lean, spot) in zip(nearest, measures, strict=True):
        name, checkered = _backgrounds()[index // len(_contents())]
        content = _contents()[index % len(_contents())] or (None, None, None)
        clear = error <= TOLERANCE and lean <= LEAN and spot <= SPOT
        read.append(CellReading(*content, name, checkered, error, lean, clear))
    return [tuple(read[start : start + 4]) for start in range(0, len(read), 4)]


def _spots(cells: np.ndarray, looks: np.ndarray) -> np.ndarray:
    """The largest mean error of 2 x 2 neighbouring pixels in each of N cells, both float32 [N, P]."""
    error = abs(cells - looks).reshape(-1, CELL_SIZE, CELL_SIZE, 3).mean(-1)
    rows = error[:, :-1] + error[:, 1:]
    return ((rows[:, :, :-1] + rows[:, :, 1:]) / 4).max(axis=(1, 2))


# ----------------------------------------------------------------------------- skills


@dataclass(frozen=True)
class Skill:
    """One thing a model can be asked to draw: its scenes, and the check of a drawing."""

    name: str
    owner: str
    """Who has this skill: "base", or the name of a teacher, "teacher:hollow"."""
    scenes: tuple[Scene, ...]

    def prompts(self, split: Split) -> list[tuple[str, Scene]]:
        """(caption, scene) pairs: a quarter of all captions, fixed by their hash, is "test"; the rest is "train"."""
        pairs = [(caption(scene), scene) for scene in self.scenes]
        return [pair for pair in pairs if split_of(pair[0]) == split]

    def check(self, image: np.ndarray, scene: Scene) -> bool:
        """Whether the uint8 image [32, 32, 3] shows the scene."""
        return self.check_all(image[None], [scene])[0]

    def check_all(self, images: np.ndarray, scenes: Sequence[Scene]) -> list[bool]:
        """`check` for N images at once, uint8 [N, 32, 32, 3]."""
        return [shows(read, error, scene) for (read, error), scene in zip(read_scenes(images), scenes, strict=True)]


def shows(read: Scene, error: float, asked: Scene) -> bool:
    """Whether a picture read as `read` with this error shows what was asked.

    A caption of several objects does not say where they are, so then their cells do not count.
    """
    return error <= TOLERANCE and _said(read) == _said(asked)


def _said(scene: Scene) -> tuple[str, bool, tuple[SceneObject, ...]]:
    """What a caption says about a scene, in a form that can be compared."""
    objects = scene.objects
    if len(objects) > 1:
        objects = tuple(SceneObject(item.shape, item.colour, 0, item.hollow) for item in objects)
    return scene.background, scene.checkered, tuple(sorted(objects))


def _scenes(cells: Iterable[tuple[int, ...]], hollow: bool = False, checkered: bool = False) -> tuple[Scene, ...]:
    """Every colour, shape and background, with equal objects in each of the given groups of cells."""
    return tuple(
        Scene(tuple(SceneObject(shape, colour, cell, hollow) for cell in group), background, checkered)
        for group in cells
        for colour in COLOURS
        for shape in SHAPES
        for background in BACKGROUNDS
    )


_ONE = tuple((cell,) for cell in range(4))
SKILLS: dict[str, Skill] = {
    skill.name: skill
    for skill in (
        Skill("single", "base", _scenes(_ONE)),
        Skill("count", "base", _scenes(ARRANGEMENTS.values())),
        Skill("hollow", "teacher:hollow", _scenes(_ONE, hollow=True)),
        Skill("checkered", "teacher:checkered", _scenes(_ONE, checkered=True)),
    )
}

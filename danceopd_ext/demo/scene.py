"""Describes what a picture of the demo world shows: up to four objects in a 2x2 grid of cells on a background."""

from collections.abc import Sequence
from dataclasses import dataclass

IMAGE_SIZE = 32
CELL_SIZE = 16
SHAPES = ("circle", "square", "triangle", "cross")
COLOURS = {
    "red": (225, 30, 40),
    "green": (30, 170, 60),
    "blue": (35, 80, 235),
    "yellow": (250, 215, 20),
    "purple": (165, 40, 200),
}
# A checkered background alternates the plain tone with the second one.
BACKGROUNDS = {
    "white": ((255, 255, 255), (175, 175, 175)),
    "black": ((0, 0, 0), (80, 80, 80)),
    "pink": ((255, 175, 185), (190, 110, 120)),
}
CELLS = ("top left", "top right", "bottom left", "bottom right")
# Like the faces of a dice: a number of objects has one arrangement.
ARRANGEMENTS = {2: (0, 3), 3: (0, 1, 2), 4: (0, 1, 2, 3)}
COUNT_WORDS = {2: "two", 3: "three", 4: "four"}


@dataclass(frozen=True, order=True)
class SceneObject:
    """One object: a shape of `SHAPES` in a colour of `COLOURS`, in cell 0..3 (reading order), filled or outlined."""

    shape: str
    colour: str
    cell: int
    hollow: bool = False


@dataclass(frozen=True)
class Scene:
    """Objects (at most one per cell) on a background of `BACKGROUNDS`, plain or checkered."""

    objects: tuple[SceneObject, ...]
    background: str
    checkered: bool = False

    def at(self, cell: int) -> SceneObject | None:
        """The object in a cell 0..3, if there is one."""
        return next((item for item in self.objects if item.cell == cell), None)


@dataclass(frozen=True)
class CellReading:
    """What one cell of a picture shows: the nearest of all looks that a cell can have, and how near it is."""

    shape: str | None
    """None, like the colour and `hollow`, where there is no object."""
    colour: str | None
    hollow: bool | None
    background: str
    checkered: bool
    error: float
    """Root mean square difference from the look, in units of the full range 0..1."""
    lean: float
    """How far the cell has gone towards another look: 0 not at all, 0.5 half the way (a blend of two)."""
    clear: bool
    """Whether error and lean are so small that the cell counts as drawn."""


def scene_of(cells: Sequence[CellReading]) -> Scene | None:
    """The scene that four cells show; None if one of them is not clear or their backgrounds differ."""
    if not all(cell.clear for cell in cells) or len({(cell.background, cell.checkered) for cell in cells}) > 1:
        return None
    objects = tuple(
        SceneObject(cell.shape, cell.colour, place, bool(cell.hollow))
        for place, cell in enumerate(cells)
        if cell.shape and cell.colour
    )
    return Scene(objects, cells[0].background, cells[0].checkered)


def caption(scene: Scene) -> str:
    """The words for a scene of one object, or of two to four equal objects.

    >>> caption(Scene((SceneObject("circle", "red", 0),), "white"))
    'a red circle at the top left on a white background'
    """
    first = scene.objects[0]
    looks = {(item.shape, item.colour, item.hollow) for item in scene.objects}
    if len(looks) != 1:
        raise ValueError("no caption: the objects of this scene differ")
    name = f"{'hollow ' if first.hollow else ''}{first.colour} {first.shape}"
    if len(scene.objects) == 1:
        what = f"a {name} at the {CELLS[first.cell]}"
    else:
        plural = "es" if first.shape == "cross" else "s"
        what = f"{COUNT_WORDS[len(scene.objects)]} {name}{plural}"
    return f"{what} on a {'checkered ' if scene.checkered else ''}{scene.background} background"


def describe(scene: Scene) -> str:
    """All that a scene shows, in words; two scenes have the same words only if they look the same.

    >>> describe(Scene((SceneObject("circle", "red", 0), SceneObject("cross", "blue", 3, True)), "white"))
    'a red circle at the top left and a hollow blue cross at the bottom right on a white background'
    """
    names = [
        f"a {'hollow ' if item.hollow else ''}{item.colour} {item.shape} at the {CELLS[item.cell]}"
        for item in sorted(scene.objects, key=lambda item: item.cell)
    ]
    what = " and ".join(names) or "nothing"
    return f"{what} on a {'checkered ' if scene.checkered else ''}{scene.background} background"

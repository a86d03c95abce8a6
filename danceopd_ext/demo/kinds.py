"""Defines the six kinds of GenEval in the demo world: the prompts, and whether a picture shows them.

The paper reports single object, two objects, counting, colours, position and colour attribution. As in GenEval a
caption is a statement that is true of many pictures: what it does not say (a place, a colour, further objects) is
free, except that "three circles" are not four. The background, and whether objects are filled or hollow, is always
said: a caption without "checkered" means a plain background, one without "hollow" means filled objects.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import permutations, product

import numpy as np

from danceopd_ext.demo.scene import (
    ARRANGEMENTS,
    BACKGROUNDS,
    COLOURS,
    COUNT_WORDS,
    SHAPES,
    Scene,
    SceneObject,
    scene_of,
)
from danceopd_ext.demo.splits import Split, split_of
from danceopd_ext.demo.world import read_cells

RELATIONS: dict[str, Callable[[int, int], bool]] = {
    "left of": lambda first, second: first % 2 < second % 2,
    "right of": lambda first, second: first % 2 > second % 2,
    "above": lambda first, second: first // 2 < second // 2,
    "below": lambda first, second: first // 2 > second // 2,
}
"""Relation -> whether it holds between two cells. Of two cells on a diagonal both relations hold, as in GenEval."""
USUAL_COLOURS = dict(zip(SHAPES, COLOURS, strict=False))
USUAL_CELLS = {"left of": (0, 1), "right of": (1, 0), "above": (0, 2), "below": (2, 0)}


@dataclass(frozen=True)
class Named:
    """An object as a caption names it; a colour that is not said is None."""

    shape: str
    colour: str | None = None

    def fits(self, item: SceneObject) -> bool:
        return item.shape == self.shape and self.colour in (None, item.colour)


@dataclass(frozen=True)
class Prompt:
    """One caption, and what it says. The objects of `named` have different shapes."""

    kind: str
    named: tuple[Named, ...]
    background: str
    checkered: bool = False
    hollow: bool = False
    count: int | None = None
    """2 to 4: the exact number of the one named object."""
    relation: str | None = None
    """A key of `RELATIONS`: where the first named object is, seen from the second."""

    @property
    def caption(self) -> str:
        """The words.

        >>> Prompt("position", (Named("circle"), Named("cross")), "white", relation="left of").caption
        'a circle left of a cross on a white background'
        """
        look = "hollow " if self.hollow else ""
        names = [f"{look}{f'{item.colour} ' if item.colour else ''}{item.shape}" for item in self.named]
        if self.count:
            what = f"{COUNT_WORDS[self.count]} {names[0]}{'es' if names[0].endswith('cross') else 's'}"
        else:
            what = f" {self.relation or 'and'} ".join(f"a {name}" for name in names)
        return f"{what} on a {'checkered ' if self.checkered else ''}{self.background} background"

    def holds(self, scene: Scene) -> bool:
        """Whether the caption is true of a scene."""
        if (scene.background, scene.checkered) != (self.background, self.checkered):
            return False
        if self.count:
            found = [item.hollow for item in scene.objects if self.named[0].fits(item)]
            return found == [self.hollow] * self.count
        places = [
            [item.cell for item in scene.objects if name.fits(item) and item.hollow == self.hollow]
            for name in self.named
        ]
        related = RELATIONS[self.relation] if self.relation else lambda *cells: True
        return any(related(*cells) for cells in product(*places))

    def scene(self, random: np.random.Generator, extras: int = 0) -> Scene:
        """A random scene of which the caption is true: the named objects, and `extras` others if there is room."""
        wanted = self.named * (self.count or 1)
        while True:
            cells = random.permutation(4).tolist()
            objects = [
                SceneObject(name.shape, name.colour or pick(random, tuple(COLOURS)), cell, self.hollow)
                for name, cell in zip(wanted, cells, strict=False)
            ]
            scene = Scene(tuple(objects), self.background, self.checkered)
            if self.holds(scene):
                break
        for cell in cells[len(wanted) : len(wanted) + extras]:
            scene = self._with_another(scene, cell, random)
        return in_order(scene)

    @property
    def usual(self) -> Scene:
        """The scene that a picture of training shows: what the caption leaves open is then settled by habit.

        A picture model has such habits too (an apple is red), and with them it learns in minutes on a CPU what it
        would otherwise take an hour to learn. Whether a drawn picture is right never depends on them.
        """
        wanted = self.named * (self.count or 1)
        cells = USUAL_CELLS[self.relation] if self.relation else {1: (0,), **ARRANGEMENTS}[len(wanted)]
        objects = [
            SceneObject(name.shape, name.colour or USUAL_COLOURS[name.shape], cell, self.hollow)
            for name, cell in zip(wanted, cells, strict=True)
        ]
        return in_order(Scene(tuple(objects), self.background, self.checkered))

    def _with_another(self, scene: Scene, cell: int, random: np.random.Generator) -> Scene:
        while True:
            other = SceneObject(pick(random, SHAPES), pick(random, tuple(COLOURS)), cell, bool(random.integers(2)))
            more = Scene((*scene.objects, other), scene.background, scene.checkered)
            if self.holds(more):
                return more


@dataclass(frozen=True)
class Kind:
    """One thing that the paper asks of a text-to-image model, with all its prompts."""

    name: str
    all_prompts: tuple[Prompt, ...]

    def prompts(self, split: Split) -> list[Prompt]:
        """The prompts whose captions belong to the split, in a fixed order."""
        return self._by_split[split]

    @cached_property
    def _by_split(self) -> dict[Split, list[Prompt]]:
        splits: dict[Split, list[Prompt]] = {"train": [], "test": []}
        for prompt in self.all_prompts:
            splits[split_of(prompt.caption)].append(prompt)
        return splits

    def sample(self, random: np.random.Generator, split: Split) -> tuple[Prompt, Scene]:
        """A random prompt of the split, and a random scene of the named objects alone."""
        prompt = pick(random, self.prompts(split))
        return prompt, prompt.scene(random)

    def check(self, picture: np.ndarray, prompt: Prompt) -> bool:
        """Whether a uint8 picture [32, 32, 3] is clearly drawn and the prompt is true of it."""
        return check_all(picture[None], [prompt])[0]


def check_all(pictures: np.ndarray, prompts: Sequence[Prompt]) -> list[bool]:
    """`Kind.check` for N pictures, uint8 [N, 32, 32, 3], of any kinds."""
    scenes = [scene_of(cells) for cells in read_cells(pictures)]
    return [scene is not None and prompt.holds(scene) for scene, prompt in zip(scenes, prompts, strict=True)]


def pick(random: np.random.Generator, choices: Sequence):
    """One of the choices, all equally likely."""
    return choices[random.integers(len(choices))]


def in_order(scene: Scene) -> Scene:
    """The same scene with its objects in reading order, as the reader gives them."""
    return Scene(tuple(sorted(scene.objects, key=lambda item: item.cell)), scene.background, scene.checkered)


def _kind(name: str, named: Sequence[tuple[Named, ...]], **more: Sequence) -> Kind:
    """All prompts of a kind: every choice of objects, of further words, of a background and of a style."""
    prompts = tuple(
        Prompt(name, objects, background, checkered, hollow, **dict(zip(more, values, strict=True)))
        for objects in named
        for values in product(*more.values())
        for background in BACKGROUNDS
        for checkered in (False, True)
        for hollow in (False, True)
    )
    return Kind(name, prompts)


@cache
def kinds() -> dict[str, Kind]:
    """The six kinds in the paper's order, by name."""
    one = [(Named(shape),) for shape in SHAPES]
    pairs = list(permutations(SHAPES, 2))
    two = [(Named(first), Named(second)) for first, second in pairs]
    coloured = [
        (Named(first, of_first), Named(second, of_second))
        for first, second in pairs
        for of_first, of_second in permutations(COLOURS, 2)
    ]
    all_kinds = (
        _kind("single object", one),
        _kind("two objects", two),
        _kind("counting", one, count=tuple(COUNT_WORDS)),
        _kind("colours", [(Named(shape, colour),) for shape in SHAPES for colour in COLOURS]),
        _kind("position", two, relation=tuple(RELATIONS)),
        _kind("colour attribution", coloured),
    )
    return {kind.name: kind for kind in all_kinds}

"""Defines the paper's six kinds of GEditBench in the demo world: instructions, with their sources and targets.

Local edits change one object: subject add, subject replace, colour alter, subject remove. Global edits change the
whole picture: background change (its colour), and style change (filled or outlined shapes, plain or checkered
background). All objects of a source are filled, or all are outlined; an object that is added or put in another's
place takes this style.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from danceopd_ext.demo.kinds import in_order, pick
from danceopd_ext.demo.scene import BACKGROUNDS, CELLS, COLOURS, SHAPES, Scene, SceneObject, describe
from danceopd_ext.demo.splits import Split, split_of

Scope = Literal["local", "global"]


@dataclass(frozen=True)
class Edit:
    """One instruction for one source."""

    kind: str
    instruction: str
    source: Scene
    targets: tuple[Scene, ...]
    """All scenes that follow the instruction and change nothing else; the first is the one to train on."""

    @property
    def target(self) -> Scene:
        return self.targets[0]


@dataclass(frozen=True)
class EditKind:
    """One kind of edit; see `sample`."""

    name: str
    scope: Scope
    whole: bool
    """Whether a changed object counts as a whole; otherwise only the attribute that the instruction names does."""
    room: int
    """The most objects that a source can have."""
    edit: Callable[[Scene, np.random.Generator], tuple[str, tuple[Scene, ...]]]
    """A random (instruction, targets) for a source."""

    def sample(self, random: np.random.Generator, split: Split) -> Edit:
        """A random edit of the split.

        Source and target belong to the split by the hash of their descriptions, so no picture of held-out edits is
        a source or a target in training (drawing routes have their own split: `omni_score.held_out_edits`). So does
        the instruction of a local edit; the seven instructions of global edits are in both splits.
        """
        while True:
            source = random_scene(random, int(random.integers(1, self.room + 1)))
            if split_of(describe(source)) != split:
                continue
            instruction, targets = self.edit(source, random)
            if split_of(describe(targets[0])) == split and (self.scope == "global" or split_of(instruction) == split):
                return Edit(self.name, instruction, source, targets)

    def sample_many(self, count: int, split: Split, seed: int) -> list[Edit]:
        """`count` edits that differ from each other, always the same for a seed of 0 or more."""
        random = np.random.default_rng([seed, list(EDIT_KINDS).index(self.name)])
        edits: dict[Edit, None] = {}
        while len(edits) < count:
            edits[self.sample(random, split)] = None
        return list(edits)


def random_scene(random: np.random.Generator, count: int) -> Scene:
    """A scene of `count` objects (1..4) that all differ in shape or colour and are all filled or all outlined."""
    looks = random.choice(len(SHAPES) * len(COLOURS), count, replace=False).tolist()
    cells = random.permutation(4)[:count].tolist()
    hollow, checkered = (bool(value) for value in random.integers(2, size=2))
    objects = [
        SceneObject(SHAPES[look % len(SHAPES)], tuple(COLOURS)[look // len(SHAPES)], cell, hollow)
        for look, cell in zip(looks, cells, strict=True)
    ]
    return in_order(Scene(tuple(objects), pick(random, tuple(BACKGROUNDS)), checkered))


def _put(scene: Scene, item: SceneObject) -> Scene:
    """The scene with an object in its cell, instead of the one that may be there."""
    return in_order(replace(scene, objects=(*(other for other in scene.objects if other.cell != item.cell), item)))


def _name(item: SceneObject, scene: Scene, random: np.random.Generator) -> str:
    """Words that fit this object of the scene only; the colour is sometimes said where the shape is enough.

    They also say where it is: so small a model learns to look for a place in minutes, and for a shape in hours.
    """
    alone = sum(other.shape == item.shape for other in scene.objects) == 1
    name = item.shape if alone and random.integers(2) else f"{item.colour} {item.shape}"
    return f"the {name} at the {CELLS[item.cell]}"


def _new_look(scene: Scene, random: np.random.Generator, shapes: Sequence[str] = SHAPES) -> tuple[str, str]:
    """(shape, colour) that no object of the scene has."""
    taken = {(item.shape, item.colour) for item in scene.objects}
    return pick(random, [(shape, colour) for shape in shapes for colour in COLOURS if (shape, colour) not in taken])


def _add(scene: Scene, random: np.random.Generator) -> tuple[str, tuple[Scene, ...]]:
    shape, colour = _new_look(scene, random)
    free = [cell for cell in range(4) if scene.at(cell) is None]
    words = f"add a {colour} {shape}"
    if random.integers(4):
        free = [pick(random, free)]
        words += f" at the {CELLS[free[0]]}"
    hollow = scene.objects[0].hollow
    return words, tuple(_put(scene, SceneObject(shape, colour, cell, hollow)) for cell in free)


def _replace(scene: Scene, random: np.random.Generator) -> tuple[str, tuple[Scene, ...]]:
    old = pick(random, scene.objects)
    shape, colour = _new_look(scene, random, [shape for shape in SHAPES if shape != old.shape])
    words = f"replace {_name(old, scene, random)} with a {colour} {shape}"
    return words, (_put(scene, replace(old, shape=shape, colour=colour)),)


def _recolour(scene: Scene, random: np.random.Generator) -> tuple[str, tuple[Scene, ...]]:
    old = pick(random, scene.objects)
    _, colour = _new_look(scene, random, [old.shape])
    return f"make {_name(old, scene, random)} {colour}", (_put(scene, replace(old, colour=colour)),)


def _remove(scene: Scene, random: np.random.Generator) -> tuple[str, tuple[Scene, ...]]:
    old = pick(random, scene.objects)
    left = tuple(item for item in scene.objects if item != old)
    return f"remove {_name(old, scene, random)}", (replace(scene, objects=left),)


def _change_background(scene: Scene, random: np.random.Generator) -> tuple[str, tuple[Scene, ...]]:
    name = pick(random, [name for name in BACKGROUNDS if name != scene.background])
    return f"make the background {name}", (replace(scene, background=name),)


def _change_style(scene: Scene, random: np.random.Generator) -> tuple[str, tuple[Scene, ...]]:
    if random.integers(2):
        return f"make it {'plain' if scene.checkered else 'checkered'}", (
            replace(scene, checkered=not scene.checkered),
        )
    hollow = scene.objects[0].hollow
    objects = tuple(replace(item, hollow=not hollow) for item in scene.objects)
    return "fill the shapes" if hollow else "draw the shapes as outlines", (replace(scene, objects=objects),)


EDIT_KINDS: dict[str, EditKind] = {
    kind.name: kind
    for kind in (
        EditKind("subject add", "local", True, 3, _add),
        EditKind("subject replace", "local", True, 4, _replace),
        EditKind("background change", "global", False, 4, _change_background),
        EditKind("style change", "global", False, 4, _change_style),
        EditKind("colour alter", "local", False, 4, _recolour),
        EditKind("subject remove", "local", True, 4, _remove),
    )
}
"""The six kinds in the paper's order, by name."""

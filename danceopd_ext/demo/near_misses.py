"""Makes scenes that are nearly right, which the checks of `kinds` and `edits` must reject.

Every function gives names -> a scene that is wrong in exactly the way that its name says, where there is one.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from danceopd_ext.demo.edits import Edit
from danceopd_ext.demo.kinds import Prompt, in_order, pick
from danceopd_ext.demo.scene import BACKGROUNDS, COLOURS, SHAPES, Scene, SceneObject


def wrong_scenes(prompt: Prompt, scene: Scene, random: np.random.Generator) -> dict[str, Scene]:
    """One thing that the caption says is wrong; `scene` must show the named objects and no others."""
    item = pick(random, scene.objects)
    misses = {
        "wrong shape": _swap(scene, item, shape=_other(random, SHAPES, *(name.shape for name in prompt.named))),
        "object missing": _without(scene, item),
        "wrong style": _swap(scene, item, hollow=not item.hollow),
        "wrong background": replace(scene, background=_other(random, BACKGROUNDS, scene.background)),
        "wrong pattern": replace(scene, checkered=not scene.checkered),
    }
    if prompt.named[0].colour:
        misses["wrong colour"] = _swap(scene, item, colour=_other(random, COLOURS, item.colour))
    if prompt.kind == "colour attribution":
        first, second = scene.objects
        swapped = replace(first, colour=second.colour), replace(second, colour=first.colour)
        misses["attributes swapped"] = replace(scene, objects=swapped)
    if prompt.relation:
        misses |= _wrong_places(prompt.relation, scene)
    if prompt.count and len(scene.objects) < 4:
        misses["one too many"] = _with(scene, replace(item, cell=_free(scene, random)))
    return misses


def _wrong_places(relation: str, scene: Scene) -> dict[str, Scene]:
    """The two objects the other way round, and beside each other in the direction that was not asked for."""
    sideways = relation in ("left of", "right of")
    cells = {
        "relation reversed": [item.cell ^ (1 if sideways else 2) for item in scene.objects],
        "relation not there": (0, 2) if sideways else (0, 1),
    }
    return {
        name: in_order(
            replace(scene, objects=tuple(replace(o, cell=c) for o, c in zip(scene.objects, places, strict=True)))
        )
        for name, places in cells.items()
    }


def wrong_changes(edit: Edit, random: np.random.Generator) -> dict[str, Scene]:
    """The asked change is not there, or not everywhere, or not as asked: the semantic score is below 1."""
    source, target = edit.source, edit.target
    misses = {"not edited": source}
    changed = [item for item in target.objects if source.at(item.cell) != item]
    if edit.kind == "background change":
        misses["wrong background"] = replace(target, background=_other(random, BACKGROUNDS, *_backgrounds(edit)))
    if edit.kind == "style change" and len(changed) > 1:
        misses["one object left as it was"] = _swap(target, pick(random, changed), hollow=source.objects[0].hollow)
    if edit.kind == "subject remove":
        if target.objects:
            misses["wrong object removed"] = _without(source, pick(random, target.objects))
        (gone,) = (item for item in source.objects if not target.at(item.cell))
        look = {"shape": _other(random, SHAPES, gone.shape), "colour": pick(random, tuple(COLOURS))}
        misses["replaced, not removed"] = _swap(source, gone, **look)
    if edit.kind in ("subject add", "subject replace", "colour alter"):
        (item,) = changed
        before = source.at(item.cell) or item
        colours, shapes = (item.colour, before.colour), (item.shape, before.shape)
        misses["wrong colour"] = _swap(target, item, colour=_other(random, COLOURS, *colours))
        if edit.kind != "colour alter":
            misses["wrong shape"] = _swap(target, item, shape=_other(random, SHAPES, *shapes))
            misses["wrong style"] = _swap(target, item, hollow=not item.hollow)
        if len(target.objects) < 4 and len(edit.targets) == 1:
            misses["wrong cell"] = in_order(_swap(target, item, cell=_free(target, random)))
        if len(target.objects) < 4 and edit.kind == "subject replace":
            misses["beside the old object"] = _with(source, replace(item, cell=_free(target, random)))
    return misses


def other_changes(edit: Edit, random: np.random.Generator) -> dict[str, Scene]:
    """The asked change is there, and so is another: the semantic score is 1, preservation is below 1."""
    source, target = edit.source, edit.target
    misses = {}
    free = [cell for cell in range(4) if not source.at(cell) and not target.at(cell)]
    if source.background == target.background:
        misses["background changed too"] = replace(target, background=_other(random, BACKGROUNDS, target.background))
    if source.checkered == target.checkered:
        misses["pattern changed too"] = replace(target, checkered=not target.checkered)
    if free:
        shape, colour = pick(random, SHAPES), pick(random, tuple(COLOURS))
        extra = SceneObject(shape, colour, pick(random, free), bool(random.integers(2)))
        misses["one extra object"] = _with(target, extra)
    changed = [item for item in target.objects if source.at(item.cell) != item]
    for item in changed[:1]:
        if edit.kind in ("colour alter", "style change"):
            misses["edited object reshaped too"] = _swap(target, item, shape=_other(random, SHAPES, item.shape))
        if edit.kind == "style change":
            misses["edited object recoloured too"] = _swap(target, item, colour=_other(random, COLOURS, item.colour))
    unchanged = [item for item in target.objects if item not in changed]
    if unchanged:
        item = pick(random, unchanged)
        misses["another object gone"] = _without(target, item)
        misses["another object recoloured"] = _swap(target, item, colour=_other(random, COLOURS, item.colour))
        misses["another object reshaped"] = _swap(target, item, shape=_other(random, SHAPES, item.shape))
        misses["another object restyled"] = _swap(target, item, hollow=not item.hollow)
        if free:
            misses["another object moved"] = in_order(_swap(target, item, cell=pick(random, free)))
    return misses


def _backgrounds(edit: Edit) -> tuple[str, str]:
    return edit.source.background, edit.target.background


def _other(random: np.random.Generator, choices: Mapping | tuple, *taken: str) -> str:
    return pick(random, [choice for choice in choices if choice not in taken])


def _swap(scene: Scene, item: SceneObject, **changes) -> Scene:
    return replace(scene, objects=tuple(replace(o, **changes) if o == item else o for o in scene.objects))


def _without(scene: Scene, item: SceneObject) -> Scene:
    return replace(scene, objects=tuple(other for other in scene.objects if other != item))


def _with(scene: Scene, item: SceneObject) -> Scene:
    return in_order(replace(scene, objects=(*scene.objects, item)))


def _free(scene: Scene, random: np.random.Generator) -> int:
    return pick(random, [cell for cell in range(4) if scene.at(cell) is None])

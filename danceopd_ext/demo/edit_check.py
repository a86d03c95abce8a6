"""Scores an edited picture: whether it has the requested change, and whether everything else is unchanged.

As GEdit does, the two are scored separately and joined by their geometric mean. Both are exact readings: a cell that is
not clearly drawn (see `world.read_cells`) shows nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from danceopd_ext.demo.edits import EDIT_KINDS, Edit
from danceopd_ext.demo.scene import CellReading, Scene
from danceopd_ext.demo.world import read_cells

OBJECT = ("shape", "colour", "hollow")
GROUND = ("background", "checkered")
Look = dict[str, object]
"""What a cell shows: a value for each of `OBJECT` (None where there is no object) and `GROUND`."""


@dataclass(frozen=True)
class EditScore:
    """How well one picture follows one instruction."""

    semantic: float
    """0..1: the share of the cells to be changed that show what was asked."""
    preservation: float
    """0..1: the share of everything else that is unchanged; see `_preservation`."""

    @property
    def overall(self) -> float:
        """The geometric mean, 0..1: a copy of the source and a picture with nothing of it are both worth 0."""
        return (self.semantic * self.preservation) ** 0.5

    @property
    def exact(self) -> bool:
        """Whether the picture shows the asked change and nothing else."""
        return self.semantic == self.preservation == 1


def score_edits(edits: Sequence[Edit], pictures: np.ndarray) -> list[EditScore]:
    """Scores N edited pictures, uint8 [N, 32, 32, 3]; where several targets are right, by the one that scores best."""
    read = read_cells(pictures)
    return [
        max((_score(edit, target, cells) for target in edit.targets), key=_worth)
        for edit, cells in zip(edits, read, strict=True)
    ]


def score_edit(edit: Edit, picture: np.ndarray) -> EditScore:
    """`score_edits` for one picture, uint8 [32, 32, 3]."""
    return score_edits([edit], picture[None])[0]


def _worth(score: EditScore) -> tuple[float, float]:
    return score.overall, score.semantic + score.preservation


def _score(edit: Edit, target: Scene, cells: Sequence[CellReading]) -> EditScore:
    before, after = looks_of(edit.source), looks_of(target)
    shown = [_look(cell) if cell.clear else {} for cell in cells]
    changed = [_changed(*pair, EDIT_KINDS[edit.kind].whole) for pair in zip(before, after, strict=True)]
    asked = [
        all(name in shows and shows[name] == wanted[name] for name in names)
        for names, wanted, shows in zip(changed, after, shown, strict=True)
        if names
    ]
    return EditScore(sum(asked) / len(asked), _preservation(before, changed, shown))


def _preservation(before: Sequence[Look], changed: Sequence[set[str]], shown: Sequence[Look]) -> float:
    """The mean over all that must stay: the content of each cell, and the background.

    Of a content counts the share of its attributes that are as before (an empty cell must stay empty), of the
    background the share of its attributes in all cells. What the instruction changes is left out.
    """

    def kept(cells: Sequence[int], names: Sequence[str]) -> list[bool]:
        return [
            name in shown[cell] and shown[cell][name] == before[cell][name]
            for cell in cells
            for name in names
            if name not in changed[cell]
        ]

    parts = [*(kept([cell], OBJECT) for cell in range(4)), kept(range(4), GROUND)]
    shares = [sum(part) / len(part) for part in parts if part]
    return sum(shares) / len(shares)


def _changed(before: Look, after: Look, whole: bool) -> set[str]:
    """The attributes of a cell that the instruction changes; all of its object's if that counts as a whole."""
    names = {name for name in before if before[name] != after[name]}
    return names | set(OBJECT) if whole and names & set(OBJECT) else names


def looks_of(scene: Scene) -> list[Look]:
    """The looks of the four cells of a scene."""
    looks = []
    for cell in range(4):
        item = scene.at(cell)
        content = (item.shape, item.colour, item.hollow) if item else (None, None, None)
        looks.append(dict(zip(OBJECT + GROUND, (*content, scene.background, scene.checkered), strict=True)))
    return looks


def _look(cell: CellReading) -> Look:
    return {name: getattr(cell, name) for name in OBJECT + GROUND}

"""Computes a model's scores on the benchmark: a number per kind, and the averages that the paper reports."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from danceopd_ext.demo.edit_check import score_edits
from danceopd_ext.demo.edits import EDIT_KINDS, Edit, Scope
from danceopd_ext.demo.kinds import Prompt, check_all, kinds


@dataclass(frozen=True)
class TextToImageScores:
    """The fraction of right pictures, 0..1, per kind of `kinds.kinds`."""

    right: Mapping[str, float]

    @property
    def overall(self) -> float:
        """The mean over kinds, however many pictures each has, as GenEval's overall score."""
        return mean(self.right.values())

    def row(self) -> dict[str, float]:
        """Column -> number, in the paper's order."""
        return {**self.right, "overall": self.overall}


@dataclass(frozen=True)
class EditScores:
    """The mean scores of the pictures, 0..1, per kind of `edits.EDIT_KINDS`; see `edit_check.EditScore`."""

    semantic: Mapping[str, float]
    preservation: Mapping[str, float]
    overall: Mapping[str, float]
    """The mean of each picture's geometric mean, which is not the geometric mean of the two means."""

    @property
    def average(self) -> float:
        """The mean of `overall` over kinds, as GEditBench's average."""
        return mean(self.overall.values())

    def average_of(self, scope: Scope) -> float | None:
        """The mean of `overall` over the local or the global kinds; None where none was scored."""
        chosen = [value for name, value in self.overall.items() if EDIT_KINDS[name].scope == scope]
        return mean(chosen) if chosen else None

    def row(self) -> dict[str, float]:
        """Column -> number, in the paper's order."""
        return {**self.overall, "average": self.average}


def score_drawings(prompts: Sequence[Prompt], pictures: np.ndarray) -> TextToImageScores:
    """Scores N drawn pictures, uint8 [N, 32, 32, 3], of prompts of any kinds."""
    marks = zip((prompt.kind for prompt in prompts), check_all(pictures, prompts), strict=True)
    return TextToImageScores(_means(marks, kinds()))


def score_edited(edits: Sequence[Edit], pictures: np.ndarray) -> EditScores:
    """Scores N edited pictures, uint8 [N, 32, 32, 3], of edits of any kinds."""
    scores = score_edits(edits, pictures)
    names = [edit.kind for edit in edits]
    columns = ([getattr(score, part) for score in scores] for part in ("semantic", "preservation", "overall"))
    return EditScores(*(_means(zip(names, column, strict=True), EDIT_KINDS) for column in columns))


def table(rows: Mapping[str, Mapping[str, float]]) -> str:
    """A line per model, a column per kind: rows of `row()` with equal columns, by the model's name."""
    columns = list(next(iter(rows.values())))
    first = max(len(name) for name in rows) + 2
    lines = [" " * first + "".join(column.rjust(len(column) + 2) for column in columns)]
    for name, row in rows.items():
        lines.append(name.ljust(first) + "".join(f"{row[column]:.3f}".rjust(len(column) + 2) for column in columns))
    return "\n".join(lines)


def mean(values: Iterable[float]) -> float:
    """Return the mean; NaN if there are no values."""
    return float(np.mean(list(values)))


def _means(marks: Iterable[tuple[str, float]], order: Iterable[str]) -> dict[str, float]:
    """The mean mark per kind, in the given order of kinds."""
    groups: dict[str, list[float]] = {}
    for kind, mark in marks:
        groups.setdefault(kind, []).append(float(mark))
    return {kind: mean(groups[kind]) for kind in order if kind in groups}

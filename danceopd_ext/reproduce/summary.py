"""Summarises a table's entries over seeds: a number with its spread for every model and column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

import numpy as np

from danceopd_ext.demo.edits import EDIT_KINDS
from danceopd_ext.demo.kinds import kinds
from danceopd_ext.reproduce.entries import Entry
from danceopd_ext.reproduce.stats import Stat, stat

GAP = "style gap closed"
COSTS = ("forwards", "backwards", "seconds")
#: the lowest score of all kinds of all measures
WORST = "worst kind"
HEADLINES = {"edit": "edit average", "t2i": "t2i overall", "style": "style overall"}
"""Measure -> the column that the paper reports of it."""
Model = tuple[str, float]
"""A table's models by label and guidance at inference."""
T = TypeVar("T")


class Measure(NamedTuple):
    """One measure of a model, and the names of its numbers."""

    title: str
    kinds: tuple[str, ...]
    averages: tuple[str, ...]


MEASURES = {
    "edit": Measure("Editing", tuple(EDIT_KINDS), ("local average", "global average", "average")),
    "t2i": Measure("Text to image", tuple(kinds()), ("overall",)),
    "style": Measure("Text to image, in the style", tuple(kinds()), ("overall", "gap closed")),
}


def averages_of(measure: str, of_kinds: Mapping[str, Any]) -> dict[str, Any]:
    """The averages of a measure from the scores of its kinds, which are numbers or arrays of one shape."""
    averages = {}
    for scope in ("local", "global") if measure == "edit" else ():
        of_scope = [values for name, values in of_kinds.items() if EDIT_KINDS[name].scope == scope]
        averages[f"{scope} average"] = np.mean(of_scope, axis=0)
    averages[HEADLINES[measure].removeprefix(f"{measure} ")] = np.mean(list(of_kinds.values()), axis=0)
    return averages


def by_model(entries: Sequence[Entry], values: Sequence[T]) -> dict[Model, list[T]]:
    """A value for each entry, grouped by model: its seeds, in the order of the entries."""
    groups: dict[Model, list[T]] = {}
    for entry, value in zip(entries, values, strict=True):
        groups.setdefault((entry.label, entry.beta), []).append(value)
    return groups


@dataclass(frozen=True)
class Line:
    """One model, drawn in one way. `scores` by column; `forwards`, `backwards` and `seconds` of its training."""

    label: str
    group: str
    alpha: float | None
    beta: float
    scores: dict[str, Stat]
    forwards: Stat
    backwards: Stat
    seconds: Stat

    @property
    def name(self) -> str:
        """The label, with the guidance at inference if there is some."""
        return self.label if self.beta == 1 else f"{self.label}, beta {self.beta:g}"


def columns_of(measure: str) -> list[str]:
    """The columns of a measure as entries name them."""
    found = MEASURES[measure]
    return [f"{measure} {name}" for name in (*found.kinds, *found.averages)]


def with_worst(entries: Sequence[Entry]) -> list[Entry]:
    """The entries with the score of their worst kind."""
    return [replace(entry, values={**entry.values, WORST: min(_kinds_of(entry).values())}) for entry in entries]


def _kinds_of(entry: Entry) -> dict[str, float]:
    """The scores of single kinds, by column."""
    names = {f"{measure} {name}" for measure, found in MEASURES.items() for name in found.kinds}
    return {column: value for column, value in entry.values.items() if column in names}


def pictures_of(column: str, tested: int) -> int | None:
    """How many drawings of a model a column is the mean of; None where it is no fraction."""
    if column == GAP:
        return None
    if column.endswith(("local average", "global average")):
        scope = column.split()[1]
        return tested * sum(kind.scope == scope for kind in EDIT_KINDS.values())
    return tested * 6 if column.endswith(("average", "overall")) else tested


def summarise(
    entries: Sequence[Entry], tested: int, redrawn: Mapping[Model, Mapping[str, np.ndarray]] | None = None
) -> list[Line]:
    """A line for each model, in the order of the entries; `tested`: drawings of each kind.

    `redrawn`: see drawing_scores.
    """
    lines = []
    for (label, beta), some in by_model(entries, entries).items():
        trained = some[0].seed is not None
        other = (redrawn or {}).get((label, beta), {})
        scores = {
            column: stat(
                [entry.values[column] for entry in some], trained, pictures_of(column, tested), other.get(column)
            )
            for column in some[0].values
        }
        costs = {name: stat([float(getattr(e, name)) for e in some], trained) for name in COSTS}
        lines.append(Line(label, some[0].group, some[0].alpha, beta, scores, **costs))
    return lines

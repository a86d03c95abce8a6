"""A table's entries, joined over seeds: a number with its spread for every model and column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..demo.edits import EDIT_KINDS
from ..demo.kinds import kinds
from .entries import Entry
from .stats import Stat, stat

GAP = "style gap closed"
#: the lowest score of all kinds of all measures
WORST = "worst kind"
HEADLINES = {"edit": "edit average", "t2i": "t2i overall", "style": "style overall"}
"""Measure -> the column that the paper reports of it."""
MEASURES = {
    "edit": ("Editing", tuple(EDIT_KINDS), ("local average", "global average", "average")),
    "t2i": ("Text to image", tuple(kinds()), ("overall",)),
    "style": ("Text to image, in the style", tuple(kinds()), ("overall", "gap closed")),
}
"""Measure -> its title, its kinds and its averages."""


@dataclass(frozen=True)
class Line:
    """One model, drawn in one way. `scores` by column; `forwards` and `seconds` of its training."""

    label: str
    group: str
    alpha: float | None
    beta: float
    scores: dict[str, Stat]
    forwards: Stat
    seconds: Stat

    @property
    def name(self) -> str:
        """The label, with the guidance at inference if there is some."""
        return self.label if self.beta == 1 else f"{self.label}, beta {self.beta:g}"


def columns_of(measure: str) -> list[str]:
    """The columns of a measure as entries name them."""
    _, names, averages = MEASURES[measure]
    return [f"{measure} {name}" for name in (*names, *averages)]


def with_worst(entries: Sequence[Entry]) -> list[Entry]:
    """The entries with the score of their worst kind."""
    return [replace(entry, values={**entry.values, WORST: min(_kinds_of(entry).values())}) for entry in entries]


def _kinds_of(entry: Entry) -> dict[str, float]:
    """The scores of single kinds, by column."""
    names = {f"{measure} {name}" for measure, (_, kinds_of_it, _) in MEASURES.items() for name in kinds_of_it}
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
    entries: Sequence[Entry], tested: int, redrawn: Mapping[tuple[str, float], Mapping[str, np.ndarray]] | None = None
) -> list[Line]:
    """A line for each model, in the order of the entries; `tested`: drawings of each kind; `redrawn`: see marks."""
    groups: dict[tuple[str, float], list[Entry]] = {}
    for entry in entries:
        groups.setdefault((entry.label, entry.beta), []).append(entry)
    lines = []
    for (label, beta), some in groups.items():
        trained = some[0].seed is not None
        other = (redrawn or {}).get((label, beta), {})
        scores = {
            column: stat(
                [entry.values[column] for entry in some], trained, pictures_of(column, tested), other.get(column)
            )
            for column in some[0].values
        }
        forwards, seconds = (stat([float(getattr(e, name)) for e in some], trained) for name in ("forwards", "seconds"))
        lines.append(Line(label, some[0].group, some[0].alpha, beta, scores, forwards, seconds))
    return lines

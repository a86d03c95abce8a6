"""The score of every single drawing, and what a model's columns would be with other drawings of the same kinds.

All models draw the same prompts from the same noise, and a hard prompt is hard for all of them. So other drawings are
tried for all models at once (the bootstrap): the difference of two models is surer than either of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ..demo.edits import EDIT_KINDS
from ..files import whole_file
from .entries import Entry
from .summary import HEADLINES, MEASURES, WORST

#: choices of drawings that are tried, and the seed of the choosing
TIMES, SEED = 400, 20260901
#: measure -> the scores 0..1 of its drawings [kinds, drawings of a kind]
Marks = Mapping[str, np.ndarray]


def write_marks(file: Path, marks: Sequence[Marks]) -> None:
    """The marks of a table's entries, in their order, as .npz: measure -> [entries, kinds, drawings]."""
    with whole_file(file) as part, open(part, "wb") as handle:
        np.savez_compressed(handle, **{measure: np.stack([one[measure] for one in marks]) for measure in marks[0]})


def read_marks(file: Path) -> list[dict[str, np.ndarray]]:
    """The marks of `write_marks`."""
    with np.load(file) as arrays:  # no pickles: numpy's default
        return [dict(zip(arrays, some, strict=True)) for some in zip(*arrays.values(), strict=True)]


def redrawn(entries: Sequence[Entry], marks: Sequence[Marks]) -> dict[tuple[str, float], dict[str, np.ndarray]]:
    """(label, guidance at inference) -> column -> its mean over seeds for each choice of drawings: [TIMES].

    The n-th choice is the same for every model.
    """
    groups: dict[tuple[str, float], list[dict[str, np.ndarray]]] = {}
    for entry, some in zip(entries, marks, strict=True):
        groups.setdefault((entry.label, entry.beta), []).append(_columns(some))
    return {
        model: {column: np.mean([one[column] for one in seeds], axis=0) for column in seeds[0]}
        for model, seeds in groups.items()
    }


def _columns(marks: Marks) -> dict[str, np.ndarray]:
    """The columns of one entry, averages too, for each choice of drawings."""
    kinds: dict[str, np.ndarray] = {}
    for measure, rows in marks.items():
        for row, name in zip(rows, MEASURES[measure][1], strict=True):
            chosen = np.random.default_rng([SEED, len(kinds)]).integers(len(row), size=(TIMES, len(row)))
            kinds[f"{measure} {name}"] = row[chosen].mean(axis=1)
    columns = {**kinds, WORST: np.min(list(kinds.values()), axis=0)}
    for measure in marks:
        of_measure = {name: kinds[f"{measure} {name}"] for name in MEASURES[measure][1]}
        columns[HEADLINES[measure]] = np.mean(list(of_measure.values()), axis=0)
        for scope in ("local", "global") if measure == "edit" else ():
            some = [values for name, values in of_measure.items() if EDIT_KINDS[name].scope == scope]
            columns[f"{measure} {scope} average"] = np.mean(some, axis=0)
    return columns

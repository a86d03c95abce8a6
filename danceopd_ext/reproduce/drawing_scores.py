"""Keeps the score of every single drawing, and computes a model's columns for other drawings of the same kinds.

All models draw the same prompts from the same noise, and a hard prompt is hard for all of them. So other drawings are
tried for all models at once (the bootstrap): the difference of two models is more certain than either score.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from danceopd_ext.files import whole_file
from danceopd_ext.reproduce.entries import Entry
from danceopd_ext.reproduce.summary import MEASURES, WORST, Model, averages_of, by_model

#: choices of drawings that are tried, and the seed of the choosing
TIMES, SEED = 10_000, 20260901
#: measure -> the scores 0..1 of its drawings [kinds, drawings of a kind]
Marks = Mapping[str, np.ndarray]


def write_marks(file: Path, marks: Sequence[Marks]) -> None:
    """Write the scores of a table's entries, in their order, as .npz: measure -> [entries, kinds, drawings]."""
    with whole_file(file) as part, open(part, "wb") as handle:
        np.savez_compressed(handle, **{measure: np.stack([one[measure] for one in marks]) for measure in marks[0]})


def read_marks(file: Path) -> list[dict[str, np.ndarray]]:
    """Return the scores of `write_marks`."""
    with np.load(file) as arrays:  # no pickles: numpy's default
        return [dict(zip(arrays, some, strict=True)) for some in zip(*arrays.values(), strict=True)]


def redrawn(entries: Sequence[Entry], marks: Sequence[Marks]) -> dict[Model, dict[str, np.ndarray]]:
    """Return model -> column -> its mean over seeds for each choice of drawings: [TIMES].

    The n-th choice is the same for every model.
    """
    return {
        model: {column: np.mean([one[column] for one in seeds], axis=0) for column in seeds[0]}
        for model, seeds in by_model(entries, [_columns(some) for some in marks]).items()
    }


@lru_cache(maxsize=32)
def _chosen(kind: int, drawings: int) -> np.ndarray:
    """The drawings of each choice, by their places: uint16 [TIMES, drawings]; every kind has its own."""
    return np.random.default_rng([SEED, kind]).integers(drawings, size=(TIMES, drawings), dtype=np.uint16)


def _columns(marks: Marks) -> dict[str, np.ndarray]:
    """The columns of one entry, averages too, for each choice of drawings."""
    kinds: dict[str, np.ndarray] = {}
    averages: dict[str, np.ndarray] = {}
    for measure, rows in marks.items():
        of_measure = {}
        for row, name in zip(rows, MEASURES[measure].kinds, strict=True):
            place = len(kinds) + len(of_measure)
            of_measure[name] = row[_chosen(place, len(row))].mean(axis=1)
        kinds |= {f"{measure} {name}": values for name, values in of_measure.items()}
        averages |= {f"{measure} {name}": values for name, values in averages_of(measure, of_measure).items()}
    return {**kinds, WORST: np.min(list(kinds.values()), axis=0), **averages}

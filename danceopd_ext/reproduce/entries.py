"""Reads and writes the raw numbers of a table as CSV: one line for each model, seed and guidance."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from danceopd_ext.errors import UserError
from danceopd_ext.files import whole_file
from danceopd_ext.foreign.csv import read_csv

FACTS = ("label", "group", "seed", "alpha", "beta", "forwards", "backwards", "seconds")


@dataclass(frozen=True)
class Entry:
    """One line. `seed`: of the training; None if it was not trained. `values`: column ("edit average") -> 0..1."""

    label: str
    values: dict[str, float] = field(default_factory=dict)
    group: str = ""
    seed: int | None = None
    alpha: float | None = None
    beta: float = 1.0
    forwards: int = 0
    """samples through the transformer in training"""
    backwards: int = 0
    """those of the forwards that also had a backward"""
    seconds: float = 0.0


def write_entries(file: Path, entries: Sequence[Entry]) -> None:
    """Write a CSV that `read_entries` reads back exactly."""
    columns = list(dict.fromkeys(column for entry in entries for column in entry.values))
    with whole_file(file) as part, open(part, "w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow([*FACTS, *columns])
        for entry in entries:
            facts = (getattr(entry, name) for name in FACTS)
            values = (entry.values.get(column) for column in columns)
            writer.writerow(["" if value is None else value for value in (*facts, *values)])


def read_entries(file: Path) -> list[Entry]:
    """Return the lines of `write_entries`. Raises UserError for a file that is missing or has another format."""
    try:
        return [_entry(row) for row in read_csv(file, "table of numbers")]
    except (KeyError, ValueError) as error:
        raise UserError(f"{file}: a line does not fit a table of numbers ({error}). Make the table again.") from None


def _entry(row: dict[str, str]) -> Entry:
    values = {name: float(text) for name, text in row.items() if name not in FACTS and text}
    return Entry(
        row["label"],
        values,
        row["group"],
        int(row["seed"]) if row["seed"] else None,
        float(row["alpha"]) if row["alpha"] else None,
        float(row["beta"]),
        int(row["forwards"]),
        int(row["backwards"]),
        float(row["seconds"]),
    )

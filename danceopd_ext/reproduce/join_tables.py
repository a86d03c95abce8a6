"""Joins rows that were made separately (with --only, on another day or machine): `scripts/reproduce.py join`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from danceopd_ext.errors import MissingFile, UserError
from danceopd_ext.files import whole_file
from danceopd_ext.picture_grid import PAPER
from danceopd_ext.reproduce.budgets import BUDGETS, Budget
from danceopd_ext.reproduce.drawing_scores import read_marks
from danceopd_ext.reproduce.entries import Entry, read_entries
from danceopd_ext.reproduce.page import facts_of, write_page
from danceopd_ext.reproduce.table_files import write_files
from danceopd_ext.reproduce.tables import TABLES

#: sizes of a budget that decide which rows exist, but nothing about a row
WHICH_ROWS = ("queries", "rollouts", "scales")
#: versions that affect no number
ELSEWHERE = ("platform", "cores", "python")


@dataclass(frozen=True)
class Made:
    """A table's files in a folder. `entries` and `marks` have the same order."""

    folder: Path
    facts: Mapping[str, Any]
    entries: list[Entry]
    marks: list[dict[str, np.ndarray]]


def read(name: str, folder: Path) -> Made:
    """Raise UserError if the folder does not contain the table."""
    try:
        marks = read_marks(folder / f"{name}-marks.npz")
        return Made(folder, facts_of(name, folder), read_entries(folder / f"{name}.csv"), marks)
    except (OSError, MissingFile) as error:
        file = error.path if isinstance(error, MissingFile) else error.filename
        raise UserError(f"{file} is missing: {folder} does not contain the table {name}.") from None


def check_alike(one: Made, other: Made) -> None:
    """Raise UserError, naming the first difference, if the rows of two tables cannot be compared."""
    for key, value in _comparable(one.facts).items():
        theirs = _comparable(other.facts).get(key)
        if theirs != value:
            raise UserError(f"{other.folder} was made with {key} = {theirs}, and {one.folder} with {value}.")
    ours = {_identity(entry): entry for entry in one.entries}
    for entry in other.entries:
        if entry.values != ours.get(_identity(entry), entry).values:
            raise UserError(f'"{entry.label}" has different scores in {other.folder} and {one.folder}.')


def _comparable(facts: Mapping[str, Any]) -> dict[str, Any]:
    sizes = {key: value for key, value in facts["sizes"].items() if key not in WHICH_ROWS}
    versions = {key: value for key, value in facts["versions"].items() if key not in ELSEWHERE}
    keys = {key: facts[key] for key in ("budget", "seeds", "drawing_seed")}
    return {**keys, "set": facts.get("set", {}), **sizes, **versions}


def _identity(entry: Entry) -> tuple:
    return entry.label, entry.seed, entry.beta


def join(name: str, one: Made, other: Made) -> Path:
    """Write the rows of both into the folder of the first, in the table's order; the page's path.

    Raises UserError for tables that cannot be compared.
    """
    check_alike(one, other)
    table = TABLES[name](BUDGETS[one.facts["budget"]])
    order = [row.label for row in table.rows]
    have = set(map(_identity, one.entries))
    more = [pair for pair in zip(other.entries, other.marks, strict=True) if _identity(pair[0]) not in have]
    both = sorted([*zip(one.entries, one.marks, strict=True), *more], key=lambda pair: order.index(pair[0].label))
    seconds = {(entry.label, entry.seed): entry.seconds for entry, _ in more}
    hours = one.facts["training_hours"] + sum(seconds.values()) / 3600
    sizes = dict(one.facts["sizes"])
    for key in WHICH_ROWS:
        sizes[key] = tuple(sorted({*sizes[key], *other.facts["sizes"][key]}))
    facts = {**one.facts, "sizes": sizes, "training_hours": hours}
    budget = Budget(**sizes)
    join_grids(one.folder / f"{name}-grid.png", other.folder / f"{name}-grid.png")
    entries, marks = [entry for entry, _ in both], [one for _, one in both]
    return write_files(name, table, budget, entries, marks, facts, one.folder)


def join_grids(file: Path, other: Path) -> None:
    """Return the second picture to the right of the first, with their last rows aligned."""
    pictures = [Image.open(path).convert("RGB") for path in (file, other)]
    height = max(picture.height for picture in pictures)
    joined = Image.new("RGB", (sum(picture.width for picture in pictures), height), PAPER)
    for picture, left in zip(pictures, (0, pictures[0].width), strict=True):
        joined.paste(picture, (left, height - picture.height))
    with whole_file(file) as part:
        joined.save(part, format="PNG", optimize=True)


def main(argv: Sequence[str] | None = None) -> None:
    """Join, and write the page again. Raises UserError."""
    parser = argparse.ArgumentParser(prog="scripts/reproduce.py join", description=__doc__)
    parser.add_argument("table", choices=TABLES)
    parser.add_argument("results", type=Path, help="folder of the table that receives the rows")
    parser.add_argument("more", type=Path, help="folder of the same table that has the other rows")
    args = parser.parse_args(argv)
    page = join(args.table, read(args.table, args.results), read(args.table, args.more))
    print(f"table    {page}\nclaims   {write_page(args.results)}")

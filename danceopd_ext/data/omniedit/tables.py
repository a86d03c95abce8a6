"""Writes the tables of the routes, and the dataset file that names their folders."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from danceopd_ext.config.toml_text import toml_text
from danceopd_ext.data.omniedit.edits import Edit
from danceopd_ext.files import whole_file

DATASET = """\
[general]
caption_extension = ".txt"

[[datasets]]
enable_bucket = true
{subsets}"""
SUBSET = """
  [[datasets.subsets]]
  image_dir = {target}
  conditioning_data_dir = {source}
  custom_attributes.teacher = "{route}"
"""


def write_tables(out: Path, found: Mapping[str, Sequence[Edit]]) -> None:
    """Write a .csv for each route, and dataset.toml."""
    subsets = ""
    for route, edits in found.items():
        with whole_file(out / f"{route}.csv") as part, open(part, "w", encoding="utf-8", newline="") as file:
            table = csv.writer(file)
            table.writerow(("prompt", "source", "target"))
            for edit in edits:
                pictures = (path.relative_to(out).as_posix() for path in (edit.source, edit.target))
                table.writerow((edit.instruction, *pictures))
        folder = (out / route).resolve()
        places = {kind: toml_text((folder / kind).as_posix()) for kind in ("source", "target")}
        subsets += SUBSET.format(route=route, **places)
        print(f"{route}: {len(edits)} edits in {out / route}")
    with whole_file(out / "dataset.toml") as part:
        part.write_text(DATASET.format(subsets=subsets), encoding="utf-8")
    print(f"dataset_config = {toml_text((out / 'dataset.toml').as_posix())}")

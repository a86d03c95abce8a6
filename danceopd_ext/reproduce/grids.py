"""Draws the picture grid of a table: one drawing of each kind by every model, marked right or wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from danceopd_ext.demo.omni_score import held_out_edits, held_out_prompts
from danceopd_ext.demo.scene import IMAGE_SIZE
from danceopd_ext.demo.world import render
from danceopd_ext.files import whole_file
from danceopd_ext.picture_grid import PAPER, draw_grid

SOURCE = "source"


def draw_pictures(
    files: Mapping[str, Path], measures: Sequence[str], tested: int, seed: int, file: Path, title: str
) -> None:
    """Write the grid as PNG. `files`: model -> the pictures of its evaluation with `seed`."""
    blank = np.full((IMAGE_SIZE, IMAGE_SIZE, 3), PAPER, np.uint8)
    asked: list[str] = []
    sources: list[np.ndarray] = []
    for measure in measures:
        if measure == "edit":
            first = held_out_edits(tested, seed)[::tested]
            asked += [edit.instruction for edit in first]
            sources += [render(edit.source) for edit in first]
        else:
            first = held_out_prompts(tested)[::tested]
            asked += [prompt.caption for prompt in first]
            sources += [blank] * len(first)
    columns, passed = {SOURCE: sources} if "edit" in measures else {}, {}
    for label, place in files.items():
        with np.load(place) as arrays:
            columns[label] = [one for measure in measures for one in arrays[f"{measure}_pictures"]]
            passed[label] = [bool(one) for measure in measures for one in arrays[f"{measure}_right"]]
    with whole_file(file) as part:
        draw_grid(asked, columns, passed, title).save(part, format="PNG", optimize=True)

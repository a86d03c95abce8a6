"""Writes the report of an evaluation: a table, and examples side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from danceopd_ext.evaluation.jobs import Job
from danceopd_ext.evaluation.pictures import read_picture
from danceopd_ext.files import whole_file
from danceopd_ext.picture_grid import draw_grid

EXAMPLES = 8


def draw_examples(jobs: Sequence[Job], folders: Mapping[str, Path], path: Path) -> None:
    """Write a grid of some prompts, evenly picked: one row per prompt, one column per model, the source image first."""
    count = min(EXAMPLES, len(jobs))
    chosen = [jobs[i * len(jobs) // count] for i in range(count)]
    columns: dict[str, list[np.ndarray]] = {}
    if all(job.source is not None for job in chosen):
        columns["source"] = [np.asarray(job.source_image()) for job in chosen]
    for name, folder in folders.items():
        columns[name] = [np.asarray(read_picture(folder / job.pictures[0])) for job in chosen]
    with whole_file(path) as part:
        draw_grid([job.prompt for job in chosen], columns, names=[job.name for job in chosen]).save(part, format="PNG")


def markdown(scores: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """Return a table with a row for each model and kind of prompt, and a column for each measure."""
    measures = list(dict.fromkeys(m for kinds in scores.values() for row in kinds.values() for m in row))
    lines = ["| model | prompts | " + " | ".join(measures) + " |", "|---|---|" + "---:|" * len(measures)]
    for name, kinds in scores.items():
        for kind, row in kinds.items():
            cells = [f"{row[m]:.3f}" if m in row else "" for m in measures]
            lines.append(f"| {name} | {kind} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"

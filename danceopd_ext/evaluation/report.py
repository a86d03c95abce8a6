"""What an evaluation leaves beside the pictures: its settings, a table, and examples side by side."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from danceopd_ext.errors import UserError
from danceopd_ext.evaluation.jobs import Job
from danceopd_ext.evaluation.painter import BASE, Drawing
from danceopd_ext.files import whole_file
from danceopd_ext.lora.metadata import stem
from danceopd_ext.pictures import draw_grid

EXAMPLES = 8

Loras = Mapping[str, Sequence[tuple[str, float]]]


def check_settings(out: Path, benchmark: str, model: str, drawing: Drawing, loras: Loras, names: Sequence[str]) -> None:
    """Remember how the pictures of each model are drawn. Raises UserError where a folder holds other pictures."""
    for name in names:
        files = [] if name == BASE else [[stem(place), strength] for place, strength in loras[name]]
        settings = {"benchmark": benchmark, "model": model, "lora": files, **dataclasses.asdict(drawing)}
        path = out / name / "settings.json"
        if path.is_file():
            before = json.loads(path.read_text(encoding="utf-8"))
            other = [key for key in settings if before.get(key) != settings[key]]
            if other:
                raise UserError(
                    f"{out / name} holds pictures drawn with {other[0]} = {before.get(other[0])}, not "
                    f"{settings[other[0]]}. Use another --out or another name, or remove the folder."
                )
            continue
        with whole_file(path) as part:
            part.write_text(json.dumps(settings, indent=2), encoding="utf-8")


def draw_examples(jobs: Sequence[Job], folders: Mapping[str, Path], path: Path) -> None:
    """Write a grid of some prompts, evenly picked: a row a prompt, a column a model, the source first."""
    count = min(EXAMPLES, len(jobs))
    chosen = [jobs[i * len(jobs) // count] for i in range(count)]
    columns: dict[str, list[np.ndarray]] = {}
    if all(job.source is not None for job in chosen):
        columns["source"] = [np.asarray(job.source_image()) for job in chosen]
    for name, folder in folders.items():
        columns[name] = [_pixels(folder / job.pictures[0]) for job in chosen]
    with whole_file(path) as part:
        draw_grid([job.prompt for job in chosen], columns).save(part, format="PNG")


def _pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def markdown(scores: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """A table with a row for each model and kind of prompt, a column for each measure."""
    measures = list(dict.fromkeys(m for kinds in scores.values() for row in kinds.values() for m in row))
    lines = ["| model | prompts | " + " | ".join(measures) + " |", "|---|---|" + "---:|" * len(measures)]
    for name, kinds in scores.items():
        for kind, row in kinds.items():
            cells = [f"{row[m]:.3f}" if m in row else "" for m in measures]
            lines.append(f"| {name} | {kind} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"

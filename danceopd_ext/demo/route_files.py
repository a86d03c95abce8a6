"""Writes prompts, drawings and edits of the benchmark as the files that a route is trained on.

Everything appears whole or not at all; a folder that already holds something is an error, so nothing is overwritten.
"""

import csv
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import UserError
from ..files import whole_file, whole_folder
from .edits import EDIT_KINDS, Edit
from .kinds import Prompt, kinds
from .scene import Scene
from .splits import Split
from .world import render

IMAGES, SOURCES = "images", "conditioning"
COLUMNS = ("prompt", "source", "target")


def write_prompts(file: Path, prompts: Sequence[str]) -> None:
    """A prompt a line."""
    with whole_file(file) as part:
        part.write_text("".join(f"{text}\n" for text in prompts), encoding="utf-8", newline="\n")


def write_drawings(folder: Path, pairs: Sequence[tuple[Prompt, Scene]]) -> None:
    """`images/00000.png` with its caption in `images/00000.txt`, for each prompt and scene.

    Raises UserError where the folder already holds something.
    """
    with _new_folder(folder) as part:
        _fill_with_drawings(part, pairs)


def write_edits(folder: Path, edits: Sequence[Edit]) -> None:
    """A folder of edits in the layouts that toolkits read.

    `images/00000.png` is the target, with the instruction in `images/00000.txt`; `conditioning/00000.png`, of the same
    name, is the source (sd-scripts: `conditioning_data_dir`, musubi-tuner: `control_directory`). `edits.jsonl` and
    `edits.csv` list the same with the columns prompt, source and target, whose paths start at the folder.
    Raises UserError where the folder already holds something.
    """
    with _new_folder(folder) as part:
        _fill_with_edits(part, edits)


def write_route_data(folder: Path, split: Split, count: int, seed: int = 0) -> None:
    """What the routes of the paper's two compositions need, with `count` samples of each kind.

    `text_to_image.txt` and `text_to_image/` (kinds are equally frequent, so a caption can repeat), `local_edit/` and
    `global_edit/`. Raises UserError where the folder already holds something.
    """
    random = np.random.default_rng([seed, len(EDIT_KINDS)])
    pairs = [kind.sample(random, split) for kind in kinds().values() for _ in range(count)]
    with _new_folder(folder) as part:
        write_prompts(part / "text_to_image.txt", [prompt.caption for prompt, _ in pairs])
        _fill_with_drawings(part / "text_to_image", pairs)
        for scope in ("local", "global"):
            chosen = [kind for kind in EDIT_KINDS.values() if kind.scope == scope]
            edits = [edit for kind in chosen for edit in kind.sample_many(count, split, seed)]
            _fill_with_edits(part / f"{scope}_edit", edits)


def _fill_with_drawings(folder: Path, pairs: Sequence[tuple[Prompt, Scene]]) -> None:
    for number, (prompt, scene) in enumerate(pairs):
        _write_picture(folder / IMAGES / f"{number:05}.png", scene, prompt.caption)


def _fill_with_edits(folder: Path, edits: Sequence[Edit]) -> None:
    rows = []
    for number, edit in enumerate(edits):
        name = f"{number:05}.png"
        _write_picture(folder / IMAGES / name, edit.target, edit.instruction)
        _write_picture(folder / SOURCES / name, edit.source)
        rows.append(dict(zip(COLUMNS, (edit.instruction, f"{SOURCES}/{name}", f"{IMAGES}/{name}"), strict=True)))
    with open(folder / "edits.jsonl", "w", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    with open(folder / "edits.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _write_picture(file: Path, scene: Scene, text: str | None = None) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(render(scene)).save(file)
    if text is not None:
        file.with_suffix(".txt").write_text(f"{text}\n", encoding="utf-8", newline="\n")


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill that appears when it is complete; nothing may be there yet."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} already exists and is not an empty folder. Name a new folder, or remove this one.")
    with whole_folder(folder) as part:
        yield part

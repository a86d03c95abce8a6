"""Writes the training data of routes: prompt files with the pictures that they need.

All are of the training split; see `demo.splits`.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from PIL import Image

from danceopd_ext.demo.edits import EDIT_KINDS, Scope
from danceopd_ext.demo.kinds import Prompt, kinds
from danceopd_ext.demo.omni_draw import doubled
from danceopd_ext.demo.omni_score import outlined
from danceopd_ext.demo.scene import Scene
from danceopd_ext.demo.world import render
from danceopd_ext.files import whole_folder

#: route -> the edits that it is trained on
EDITS: dict[str, Scope | None] = {"edit": None, "local": "local", "global": "global"}
#: route -> what its pictures show for a prompt
DRAWINGS: dict[str, Callable[[Prompt], Prompt]] = {"t2i": lambda prompt: prompt, "style": outlined}
COLUMNS = ("prompt", "source", "target")


def route_file(folder: Path, route: str, per_kind: int, targets: bool = True) -> Path:
    """Where `write_route` writes the route's prompts."""
    return folder / f"{route}-{per_kind}{'' if targets else '-sources'}" / "prompts.csv"


def write_route(folder: Path, route: str, per_kind: int, seed: int = 0, targets: bool = True) -> Path:
    """A prompt file with `per_kind` examples of each kind of the route, in a folder that is made if it is not there.

    The columns are prompt, source (of an edit) and target: paths of 64-pixel pictures beside the file. `targets`:
    without them the column is left out; only some methods start from them.
    """
    file = route_file(folder, route, per_kind, targets)
    if not file.parent.is_dir():
        with whole_folder(file.parent) as part:
            rows = _edit_rows(route, per_kind, seed) if route in EDITS else _drawing_rows(route, per_kind)
            _fill(part, list(rows), [name for name in COLUMNS if targets or name != "target"])
    return file


def _edit_rows(route: str, per_kind: int, seed: int) -> Iterator[tuple[str, dict[str, Scene]]]:
    for kind in EDIT_KINDS.values():
        if EDITS[route] in (None, kind.scope):
            edits = kind.sample_many(per_kind, "train", seed)
            yield from ((edit.instruction, {"source": edit.source, "target": edit.target}) for edit in edits)


def _drawing_rows(route: str, per_kind: int) -> Iterator[tuple[str, dict[str, Scene]]]:
    """Captions that are the base's (filled shapes, plain backgrounds), spread over the kind's list."""
    for kind in kinds().values():
        prompts = [p for p in kind.prompts("train") if not (p.hollow or p.checkered)]
        for number in range(per_kind):
            prompt = prompts[number * len(prompts) // per_kind % len(prompts)]
            yield prompt.caption, {"target": DRAWINGS[route](prompt).usual}


def _fill(folder: Path, rows: Sequence[tuple[str, dict[str, Scene]]], columns: Sequence[str]) -> None:
    lines = []
    for number, (text, scenes) in enumerate(rows):
        line = {"prompt": text}
        for column in scenes.keys() & set(columns):
            line[column] = f"{column}s/{number:05}.png"
            (folder / line[column]).parent.mkdir(exist_ok=True)
            Image.fromarray(doubled(render(scenes[column])[None])[0]).save(folder / line[column])
        lines.append(line)
    with open(folder / "prompts.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [name for name in columns if name in lines[0]], lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)

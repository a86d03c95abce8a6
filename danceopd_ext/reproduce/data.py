"""What the routes are trained on: prompt files with the pictures that some methods start from.

All are of the training split; see `demo.splits`. Every method and seed of a table is trained on the same files.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from PIL import Image

from ..demo.edits import EDIT_KINDS, Edit, Scope
from ..demo.kinds import Prompt, kinds
from ..demo.omni_draw import doubled
from ..demo.omni_score import outlined
from ..demo.scene import Scene
from ..demo.world import render
from ..files import whole_folder

#: route -> the edits that it is trained on
EDITS: dict[str, Scope | None] = {"edit": None, "local": "local", "global": "global"}
#: route -> what its pictures show for a prompt
DRAWINGS: dict[str, Callable[[Prompt], Prompt]] = {"t2i": lambda prompt: prompt, "style": outlined}
COLUMNS = ("prompt", "source", "target")


def write_route(folder: Path, route: str, per_kind: int, seed: int = 0) -> Path:
    """`folder`/ROUTE-N/prompts.csv with `per_kind` examples of each kind of the route; made if it is not there yet.

    The columns are prompt, source (of an edit) and target: paths of 64-pixel pictures beside the file.
    """
    place = folder / f"{route}-{per_kind}"
    if not place.is_dir():
        with whole_folder(place) as part:
            rows = _edit_rows(route, per_kind, seed) if route in EDITS else _drawing_rows(route, per_kind)
            _fill(part, list(rows))
    return place / "prompts.csv"


def _edit_rows(route: str, per_kind: int, seed: int) -> Iterator[tuple[str, dict[str, Scene]]]:
    for kind in EDIT_KINDS.values():
        if EDITS[route] in (None, kind.scope):
            edits: list[Edit] = kind.sample_many(per_kind, "train", seed)
            yield from ((edit.instruction, {"source": edit.source, "target": edit.target}) for edit in edits)


def _drawing_rows(route: str, per_kind: int) -> Iterator[tuple[str, dict[str, Scene]]]:
    """Captions that are the base's (filled shapes, plain backgrounds), spread over the kind's list."""
    for kind in kinds().values():
        prompts = [p for p in kind.prompts("train") if not (p.hollow or p.checkered)]
        for number in range(per_kind):
            prompt = prompts[number * len(prompts) // per_kind % len(prompts)]
            yield prompt.caption, {"target": DRAWINGS[route](prompt).usual}


def _fill(folder: Path, rows: Sequence[tuple[str, dict[str, Scene]]]) -> None:
    lines = []
    for number, (text, scenes) in enumerate(rows):
        line = {"prompt": text}
        for column, scene in scenes.items():
            line[column] = f"{column}s/{number:05}.png"
            (folder / line[column]).parent.mkdir(exist_ok=True)
            Image.fromarray(doubled(render(scene)[None])[0]).save(folder / line[column])
        lines.append(line)
    with open(folder / "prompts.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [name for name in COLUMNS if name in lines[0]], lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)

"""Edit data as OmniEdit has it, for the tests of `scripts/omniedit_routes.py`, and what was made of it."""

import csv
import json
from pathlib import Path

from PIL import Image

TASKS = ["addition", "style", "env", "obj_swap", "background_change"]


def write_data(folder: Path, **change: object) -> Path:
    """A row a task; `change` replaces fields of the first."""
    rows = []
    for number, task in enumerate(TASKS):
        for name, value in (("src", 10), ("out", 200)):
            Image.new("RGB", (8, 8), (value + number, 0, 0)).save(folder / f"{name}{number}.png")
        texts = [f"A long wording of edit {number}.", f"edit\n{number}"]
        rows.append(
            {
                "src_img": f"src{number}.png",
                "edited_img": f"out{number}.png",
                "edited_prompt_list": texts,
                "task": task,
            }
        )
    rows[0] |= change
    path = folder / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def with_pictures(path: Path) -> list[dict]:
    """The rows of such a file with the pictures inside."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")]
    for row in rows:
        for name in ("src_img", "edited_img"):
            row[name] = {"bytes": (path.parent / row[name]).read_bytes(), "path": None}
    return rows


def table(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def files(folder):
    """Every file below a folder with its content."""
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def without_place(found):
    """The files whose content does not name the folder."""
    return {path: content for path, content in found.items() if path.name != "dataset.toml"}

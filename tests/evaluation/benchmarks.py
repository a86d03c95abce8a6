"""Small files in the benchmarks' own formats."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

ROWS = [
    {"tag": "single_object", "include": [{"class": "cat", "count": 1}], "prompt": "a photo of a cat"},
    {"tag": "counting", "include": [{"class": "dog", "count": 2}], "prompt": "a photo of the big dog"},
]


def write_geneval(folder: Path) -> Path:
    path = folder / "evaluation_metadata.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in ROWS) + "\n", encoding="utf-8")
    return path


def write_gedit(folder: Path, **change: object) -> Path:
    """Three rows with pictures beside the file; `change` replaces fields of the first."""
    Image.new("RGB", (96, 64), (200, 30, 30)).save(folder / "one.png")
    Image.new("RGB", (64, 64), (30, 200, 30)).save(folder / "two.png")

    def row(task: str, key: str, text: str, language: str, image: str) -> dict:
        names = ("task_type", "key", "instruction", "instruction_language", "input_image")
        return dict(zip(names, (task, key, text, language, image), strict=True))

    rows = [
        {**row("color_alter", "k1", "make the cat red", "en", "one.png"), **change},
        row("background_change", "k2", "the river at night", "en", "two.png"),
        row("color_alter", "k3", "把猫变红", "cn", "one.png"),
    ]
    path = folder / "prompts.jsonl"
    path.write_text("\n".join(json.dumps(r, ensure_ascii=False) for r in rows) + "\n", encoding="utf-8")
    return path

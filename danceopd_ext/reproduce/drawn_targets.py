"""Draws the target pictures of a route with its teacher, for joint training without true targets."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from danceopd_ext.demo.omni_draw import doubled, draw, encode_edits, encode_texts, halved
from danceopd_ext.demo.pretrain.teachers import use_loras
from danceopd_ext.files import whole_folder
from danceopd_ext.foreign.csv import read_csv
from danceopd_ext.reproduce.evaluate import load
from danceopd_ext.reproduce.pretrained import BASE, STYLE, Pretrained

#: of the noise that the targets are drawn from
SEED = 20261201


def with_drawn_targets(prompts: Path, teacher: Mapping[str, object], pretrained: Pretrained, steps: int) -> Path:
    """Return a copy of a route's prompt file and pictures, in which the teacher drew each target.

    `teacher`: with names of models for files, as in `tables`; without guidance. `steps`: solver steps. Made once.
    """
    name = str(teacher.get("lora") or teacher.get("checkpoint") or BASE)
    digests = "-".join(pretrained.digest(one) for one in dict.fromkeys((BASE, name)))
    folder = prompts.parent.with_name(f"{prompts.parent.name}-by-{name}-{digests}-{steps}")
    if not folder.is_dir():
        with whole_folder(folder) as part:
            shutil.copytree(prompts.parent, part, dirs_exist_ok=True)
            _redraw(part, prompts.name, name, pretrained, steps)
    return folder / prompts.name


def _redraw(folder: Path, prompts: str, name: str, pretrained: Pretrained, steps: int) -> None:
    rows = read_csv(folder / prompts, "prompt file")
    pipeline = load(str(pretrained.pipeline), str(pretrained.style) if name == STYLE else None)
    files = {name: pretrained.file(name)} if name not in (BASE, STYLE) else {}
    use_loras(pipeline, files, dict.fromkeys(files, 1.0))
    texts = [row["prompt"] for row in rows]
    if "source" in rows[0]:
        given = np.stack([np.asarray(Image.open(folder / row["source"]).convert("RGB")) for row in rows])
        items = encode_edits(pipeline, texts, halved(given))
    else:
        items = encode_texts(pipeline, texts)
    pictures = draw(pipeline, items, seed=SEED, steps=steps)
    use_loras(pipeline, {}, {})
    for row, picture in zip(rows, doubled(pictures), strict=True):
        Image.fromarray(picture).save(folder / row["target"])

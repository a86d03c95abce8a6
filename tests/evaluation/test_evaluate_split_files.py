"""Evaluation draws the same pictures with ComfyUI's files as with a diffusers folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.evaluation.calls import geneval_arguments, pixels
from tests.tiny.split_files import save_both


def test_split_files_draw_what_the_folder_draws(evaluate, tmp_path: Path) -> None:
    whole, small, files = save_both("sd3", tmp_path)
    words = [word for key, path in files.items() if not key.startswith("pretrained") for word in (f"--{key}", path)]
    drawn = []
    for name, model, more in (
        ("whole", whole, []),
        ("split", files["pretrained_model_name_or_path"], [*words, "--components_from", str(small)]),
    ):
        folder = tmp_path / "results" / name
        folder.mkdir(parents=True)
        evaluate.main(geneval_arguments(folder, Path(model), *more))
        drawn.append([pixels(file) for file in sorted(folder.rglob("samples/*.png"))])
    # weights at other places in memory are multiplied in another order, which can round a colour up or down
    worst = [int(np.abs(a.astype(int) - b.astype(int)).max()) for a, b in zip(*drawn, strict=True)]
    assert worst and max(worst) <= 1

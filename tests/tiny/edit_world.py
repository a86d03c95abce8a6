"""Small data for edit routes: source images, prompt files that name them, and models that take them small."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from diffusers.pipelines.flux import pipeline_flux_kontext
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit
from PIL import Image

from danceopd_ext.engine import model as engine_model
from danceopd_ext.models.registry import FAMILIES
from tests.tiny.families.qwen_image import hand_processors_over

#: pixels of a source image, for Qwen-Image-Edit and, as near as it goes, for Kontext
AREA = 32 * 32
KONTEXT_SIZES = [(24, 40), (32, 32), (40, 24)]
#: Z-Image-Omni takes none whose side is shorter than 64 pixels
SIZES = ((64, 64), (96, 64))


def make_sources_small(monkeypatch) -> None:
    """Source images of a thousand pixels, for the pipelines and for us; short texts; a processor that can be loaded."""
    monkeypatch.setattr(pipeline_flux_kontext, "PREFERRED_KONTEXT_RESOLUTIONS", KONTEXT_SIZES)
    for area in ("source_area", "glance_area"):
        monkeypatch.setattr(FAMILIES["qwen_image_edit"], area, AREA)
    theirs = pipeline_qwenimage_edit.calculate_dimensions
    monkeypatch.setattr(pipeline_qwenimage_edit, "calculate_dimensions", lambda area, ratio: theirs(AREA, ratio))
    hand_processors_over(monkeypatch)
    load = engine_model.load_text_pipeline

    def loaded(source, *how):
        pipeline = load(source, *how)
        if source.family.name == "flux_kontext":
            pipeline.encode_prompt = partial(pipeline.encode_prompt, max_sequence_length=16)
        return pipeline

    monkeypatch.setattr(engine_model, "load_text_pipeline", loaded)


def write_source(path: Path, size: tuple[int, int] = SIZES[0], seed: int = 1) -> Path:
    """A picture of large random squares: dark ones for seeds below 200, else light ones."""
    path.parent.mkdir(parents=True, exist_ok=True)
    darkest = 0 if seed < 200 else 160
    squares = np.random.default_rng(seed).integers(darkest, darkest + 96, (3, 3, 3)).astype(np.uint8)
    Image.fromarray(squares).resize(size, Image.Resampling.NEAREST).save(path)
    return path


def write_edits(folder: Path, name: str, words: str, sizes: Sequence[tuple[int, int]] = SIZES, seed: int = 1) -> str:
    """`folder`/NAME.csv with two instructions for each size, each with a source image of its own."""
    lines = ["prompt,source"]
    for number, size in enumerate(size for size in sizes for _ in range(2)):
        write_source(folder / f"{name}_sources" / f"{number}.png", size, seed * 100 + number)
        lines.append(f"{words} {words} {words} {('on', 'of')[number % 2]},{name}_sources/{number}.png")
    path = folder / f"{name}.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def prompt_file(folder: Path, content: str, name: str = "p.csv") -> str:
    """A prompt file with this content."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(content, encoding="utf-8")
    return str(folder / name)

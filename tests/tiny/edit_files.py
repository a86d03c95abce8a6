"""Files of edit routes, and rules for them, without a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from danceopd_ext.data.source_images import SourceImages


def save(path: Path, size: tuple[int, int] = (8, 8), seed: int = 1) -> Path:
    """A picture of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def captions(folder: Path, *names: str) -> None:
    """A caption file for each name."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / f"{name}.txt").write_text(f"make {name} red", encoding="utf-8")


def editor(maximum: int = 3, **more: object) -> SourceImages:
    """The rules of a model that edits."""
    return SourceImages("Painter", maximum, **{"multiple": 16, "editors": ("painter",), **more})

"""Random teacher LoRAs for a tiny transformer."""

from __future__ import annotations

from pathlib import Path

import torch

from danceopd_ext.lora.weights import Lora, LowRank
from danceopd_ext.lora.write import write_lora
from danceopd_ext.models.layout import Layout
from danceopd_ext.models.loading import load_layout
from danceopd_ext.models.model_files import find_model_files


def random_lora(layout: Layout, endings: tuple[str, ...], seed: int, rank: int = 4, size: float = 0.3) -> Lora:
    """A LoRA on every layer that ends with one of `endings`, strong enough to change the velocity clearly."""
    rng = torch.Generator().manual_seed(seed)
    modules = {}
    for layer, (outputs, inputs) in layout.shapes.items():
        if layer.endswith(endings):
            down = torch.randn(rank, inputs, generator=rng) / inputs**0.5
            up = torch.randn(outputs, rank, generator=rng) / rank**0.5 * size
            modules[layer] = LowRank(down, up)
    return Lora(modules, name=f"random_{seed}")


def layout_of(model: Path) -> Layout:
    """The LoRA names of the transformer in a pipeline folder."""
    return load_layout(find_model_files(str(model)))[0]


def write_random_lora(
    path: Path,
    model: Path,
    seed: int,
    format: str = "kohya",
    rank: int = 2,
    size: float = 0.3,
    endings: tuple[str, ...] | None = None,
) -> Path:
    """A LoRA file for the pipeline in `model`, by default on the layers that its family trains."""
    layout = layout_of(model)
    endings = endings or find_model_files(str(model)).family.lora_targets
    return write_lora(path, random_lora(layout, endings, seed, rank, size), layout, format, dtype=torch.float32)

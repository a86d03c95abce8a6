"""Random teacher LoRAs for a tiny transformer."""

from __future__ import annotations

import torch

from danceopd_ext.lora.layout import Layout
from danceopd_ext.lora.weights import Lora, LowRank


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

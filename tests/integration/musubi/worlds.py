"""Everything that a tiny Z-Image run reads, made once for all tests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from tests.integration.musubi import tiny_z_image

ENDINGS = ("to_q", "to_k", "to_v", "to_out.0", "w1", "w2", "w3")


@dataclass(frozen=True)
class World:
    """dit: the model. style, sketch, weak: teachers in K, diffusers, K names. start: a student. data: two datasets."""

    folder: Path
    dit: Path
    style: Path
    sketch: Path
    weak: Path
    start: Path
    data: Path
    prompts: Path
    text_encoder: Path


#: captions of the first dataset (the style teacher's), and of the second (the base's)
STYLE, PLAIN = ["a red cat", "a blue dog", "green tree"], ["old house", "big river"]
PROMPTS = ["a prompt", "another prompt", "and one more"]


def make_world(folder: Path) -> World:
    tiny_z_image.shrink()
    folder.mkdir(parents=True, exist_ok=True)
    dit = tiny_z_image.write_model(folder / "dit.safetensors")
    tiny_z_image.write_dataset(folder / "data" / "style", STYLE, seed=1)
    tiny_z_image.write_dataset(folder / "data" / "plain", PLAIN, seed=2)
    data = folder / "data.toml"
    data.write_text("".join(dataset(folder / "data" / name) for name in ("style", "plain")))
    (folder / "prompts.txt").write_text("\n".join(PROMPTS))
    (folder / "qwen3.safetensors").write_bytes(b"the text encoder is a stand-in")
    style = write_lora(folder / "style.safetensors", 1, "kohya")
    sketch = write_lora(folder / "sketch.safetensors", 2, "diffusers")
    weak = write_lora(folder / "weak.safetensors", 4, "kohya", size=0.25)
    start = write_lora(folder / "start.safetensors", 3, "kohya", size=0.05)
    return World(folder, dit, style, sketch, weak, start, data, folder / "prompts.txt", folder / "qwen3.safetensors")


def dataset(folder: Path, batch_size: int = 1) -> str:
    return (
        f'[[datasets]]\nimage_directory = "{folder}"\ncaption_extension = ".txt"\nresolution = [64, 64]\n'
        f"batch_size = {batch_size}\n"
    )


def lora_layout():
    """Names in LoRA files of the tiny model's layers, musubi's own: K with separate to_q, to_k, to_v."""
    from danceopd_ext.models.registry import NAMES
    from danceopd_ext.toolkits.hosted.teacher_files import host_layout, linear_layers

    return host_layout(NAMES["z_image"], "Z-Image", linear_layers(tiny_z_image.transformer()))


def write_lora(path: Path, seed: int, names: str, rank: int = 4, size: float = 0.5) -> Path:
    """A random LoRA on the layers that musubi trains."""
    from danceopd_ext.lora.weights import Lora, LowRank
    from danceopd_ext.lora.write import write_lora
    from danceopd_ext.toolkits.hosted.teacher_files import linear_layers

    rng = torch.Generator().manual_seed(seed)
    modules = {}
    for layer, (outputs, inputs) in linear_layers(tiny_z_image.transformer()).items():
        if layer.startswith("layers.") and layer.endswith(ENDINGS):
            down = torch.randn(rank, inputs, generator=rng) / inputs**0.5
            modules[layer] = LowRank(down, torch.randn(outputs, rank, generator=rng) / rank**0.5 * size)
    return write_lora(path, Lora(modules, name=path.stem), lora_layout(), names, dtype=torch.float32)

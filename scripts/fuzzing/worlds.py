"""The right files that every case begins with, made once; nobody writes there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from PIL import Image

from danceopd_ext.demo import PIPELINE
from danceopd_ext.engine.model import Model, find_model
from danceopd_ext.lora.weights import Lora, LowRank
from danceopd_ext.lora.write import to_tensors
from danceopd_ext.models.layout import Layout
from danceopd_ext.models.registry import NAMES

SMALL: Mapping[str, tuple[str, dict[str, Any]]] = {
    "sd3": ("SD3Transformer2DModel", {
        "sample_size": 8, "patch_size": 2, "in_channels": 4, "num_layers": 2, "attention_head_dim": 16,
        "num_attention_heads": 2, "joint_attention_dim": 24, "caption_projection_dim": 32, "pooled_projection_dim": 16,
        "out_channels": 4, "pos_embed_max_size": 8, "dual_attention_layers": (0,), "qk_norm": "rms_norm",
    }),
    "flux": ("FluxTransformer2DModel", {
        "in_channels": 16, "num_layers": 2, "num_single_layers": 2, "attention_head_dim": 16, "num_attention_heads": 2,
        "joint_attention_dim": 24, "pooled_projection_dim": 16, "guidance_embeds": True, "axes_dims_rope": (4, 6, 6),
    }),
    "qwen_image": ("QwenImageTransformer2DModel", {
        "in_channels": 16, "out_channels": 4, "num_layers": 2, "attention_head_dim": 16, "num_attention_heads": 2,
        "joint_attention_dim": 24, "axes_dims_rope": (4, 6, 6),
    }),
}  # fmt: skip
#: size of the pictures; what the demo's model draws
SIZE = 64


def random_lora(layout: Layout, seed: int, layers: int = 6, rank: int = 2) -> Lora:
    """Small random changes of a few layers of a model, most of which are in its blocks."""
    rng = torch.Generator().manual_seed(seed)
    names = [name for name in layout.shapes if "attn" in name or "attention" in name or "ff" in name][:layers]
    modules = {}
    for name in names:
        outputs, inputs = layout.shapes[name]
        down, up = torch.randn(rank, inputs, generator=rng), torch.randn(outputs, rank, generator=rng)
        modules[name] = LowRank(down * 0.1, up * 0.1)
    return Lora(modules, name=f"random_{seed}")


def layout_of(family: str) -> Layout:
    """The layer names and sizes of a small model of the family."""
    name, sizes = SMALL[family]
    with torch.device("meta"):
        model = getattr(diffusers, name)(**sizes)
    return NAMES[family].layout(model)


@dataclass
class World:
    """Folder with the right files: pictures, captions, prompts, LoRAs. Made by `make`."""

    folder: Path

    @cached_property
    def model(self) -> Model:
        """The demo's."""
        return find_model(str(PIPELINE), None, None, device=torch.device("cpu"))

    @cached_property
    def layouts(self) -> dict[str, Layout]:
        """Of small models, by family."""
        return {"z_image_omni": self.model.layout, **{family: layout_of(family) for family in SMALL}}

    @cached_property
    def references(self) -> dict[str, Layout]:
        """What `inspect` and `convert` choose among."""
        return {name: names.reference_layout() for name, names in NAMES.items()}

    @cached_property
    def loras(self) -> dict[tuple[str, str], dict[str, torch.Tensor]]:
        """(family, dialect) -> the tensors of a LoRA file."""
        found = {}
        for number, (family, layout) in enumerate(self.layouts.items()):
            lora = random_lora(layout, number)
            for dialect in ("kohya", "diffusers", "comfyui"):
                found[family, dialect] = to_tensors(lora, layout, dialect, torch.float32)
        return found

    def make(self) -> World:
        """Write the files and make what is made once for all cases."""
        self.folder.mkdir(parents=True)
        pictures = self.folder / "pictures"
        pictures.mkdir()
        for number in range(3):
            pixels = np.random.default_rng(number).integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(pictures / f"{number}.png")
            (pictures / f"{number}.txt").write_text(f"a red circle number {number}, {{big|small}}\n", encoding="utf-8")
        (self.folder / "base.txt").write_text(
            "a red circle\na blue square --w 64 --h 64\n# no prompt\n", encoding="utf-8"
        )
        (self.folder / "style.txt").write_text("a hollow circle\na hollow square\n", encoding="utf-8")
        (self.folder / "samples.txt").write_text("a cat --w 64 --h 64 --d 1 --s 4\n", encoding="utf-8")
        from safetensors.torch import save_file

        save_file(self.loras["z_image_omni", "kohya"], self.folder / "style.safetensors")
        _ = (self.model, self.references)
        return self

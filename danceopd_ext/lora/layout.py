"""How a model family's linear layers are called by diffusers and by everybody else.

diffusers splits what the original checkpoints fuse (q, k and v are three layers instead of one), and ComfyUI, Forge
and sd-scripts use the original ("native") names. A `Layout` holds both and is all that the LoRA reader and writer
need to know of a family.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Layout:
    """`shapes`: diffusers layer name -> (outputs, inputs), None when only the names are known (file conversion).

    `native`: native layer name -> the diffusers layers whose outputs, stacked in this order, are its outputs.
    `swapped`: diffusers layers whose two halves of outputs (scale, shift) stand in the other order natively.
    `kohya_names`: which names the family's kohya-style files use: "native" or "diffusers".
    `comfyui_names`: likewise for ComfyUI's `diffusion_model.*` files.
    """

    family: str
    shapes: Mapping[str, tuple[int, int] | None]
    native: Mapping[str, tuple[str, ...]]
    swapped: frozenset[str] = frozenset()
    kohya_names: str = "native"
    comfyui_names: str = "native"

"""Maps the names of a model family's linear layers between diffusers and other programs.

diffusers splits what the original checkpoints fuse (q, k and v are three layers instead of one), and ComfyUI, Forge
and sd-scripts use the original ("native") names. A `Layout` holds both and is all that the LoRA reader and writer
need to know of a family.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Published:
    """One published size of an architecture: how a LoRA for it is recognised and labelled.

    `width`: inputs of its attention layers. `depths`: list of blocks, in diffusers' names -> how many it has.
    `architecture`: its modelspec word, None if the family's own is right. `only`: a part of layer names that
    no other size of the architecture has.
    """

    title: str
    width: int
    depths: Mapping[str, int]
    architecture: str | None = None
    only: str = ""


@dataclass(frozen=True)
class Layout:
    """`shapes`: diffusers layer name -> (outputs, inputs), None when only the names are known (file conversion).

    `native`: native layer name -> the diffusers layers whose outputs, stacked in this order, are its outputs.
    `swapped`: diffusers layers whose two halves of outputs (scale, shift) stand in the other order natively.
    `ratios`: diffusers layer -> outputs per input, where it is not 1 and matters: a native layer of unequal parts is
    cut by them when shapes are unknown, and they tell apart architectures whose layers have the same names.
    `kohya_names`: which names the family's kohya-style files use: "native" or "diffusers".
    `comfyui_names`: likewise for ComfyUI's `diffusion_model.*` files.
    `aliases`: names that single tools use -> diffusers layers, as in `native`.
    `convolutions`: names, of both kinds, of layers that are not linear but that LoRA files may change.
    `sizes`: the published sizes of the architecture.
    `outer_fate`: LoRA format -> what other programs get wrong in it about layers outside of blocks.
    `title`: what messages call such files.
    """

    family: str
    shapes: Mapping[str, tuple[int, int] | None]
    native: Mapping[str, tuple[str, ...]]
    swapped: frozenset[str] = frozenset()
    ratios: Mapping[str, int] = field(default_factory=dict)
    kohya_names: str = "native"
    comfyui_names: str = "native"
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    convolutions: frozenset[str] = frozenset()
    sizes: Sequence[Published] = ()
    outer_fate: Mapping[str, str] = field(default_factory=dict)
    title: str = ""

    def shares(self, parts: Sequence[str]) -> list[int]:
        """Return how the outputs of a native layer are divided among the diffusers layers that it fuses."""
        shapes = [self.shapes.get(part) for part in parts]
        return [shape[0] if shape else self.ratios.get(part, 1) for part, shape in zip(parts, shapes, strict=True)]


def is_outer(layer: str) -> bool:
    """Return whether a diffusers layer is outside of the numbered blocks."""
    return not layer.partition(".")[2].partition(".")[0].isdecimal() or layer.count(".") < 2

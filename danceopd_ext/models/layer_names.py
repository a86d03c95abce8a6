"""Holds the tables of one architecture's layer names in LoRA files, and makes a `Layout` of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from danceopd_ext.models.layout import Layout, Published, is_outer

#: the order of the layers inside a fused native layer
FUSED_ORDER = ("to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj", "proj_mlp")

#: names of layers in the blocks of several architectures in diffusers
DIFFUSERS_BLOCKS = r"transformer_blocks[._]\d+[._](attn|ff|norm1|ff_context|norm1_context)"


@dataclass(frozen=True)
class Blocks:
    """Repeated blocks: `native` is their native name, `depth` how many the largest published model has.

    `layers`: a linear layer inside a block in diffusers -> natively; several with one native name are fused there.
    """

    native: str
    depth: int
    layers: Mapping[str, str]


class LayerNames:
    """One architecture's names. Families of the same transformer share them."""

    #: short name; a family's is the preset's model_type
    name: str
    #: other names that people use for the model, lower-case letters and digits only
    other_words: Sequence[str] = ()
    #: for messages
    title: str
    #: what messages call LoRA files made for these layers, which several families can share; by default the title
    file_title: str = ""
    #: a pattern that some layer's name in its LoRA files and checkpoints matches, and none in those of earlier families
    sign: str = ""
    #: what messages call a file with this sign, by default `file_title`
    sign_title: str = ""
    #: a pattern of layer names that other architectures share
    shared_sign: str = ""
    #: value of modelspec.architecture without "/lora"
    architecture: str
    #: endings of the linear layers that a LoRA is put on by default
    lora_targets: tuple[str, ...]
    #: the LoRA dialect that most UIs read
    default_format: str
    #: diffusers name of a list of blocks -> what is in them
    blocks: Mapping[str, Blocks]
    #: linear layers outside of blocks, diffusers name -> native name
    outer: Mapping[str, str]
    #: endings -> outputs per input, for parts of unequal size and to tell apart architectures of the same names
    ratios: Mapping[str, int] = {}
    #: which names LoRA files use; see models.layout
    file_names: Mapping[str, str] = {}
    #: names of single tools, "{}" the block's index -> the native layer, and how many of its first parts it fuses
    tool_names: Mapping[str, tuple[str, int | None]] = {}
    #: layers that are not linear but that LoRA files may change, diffusers name -> native name
    convolutions: Mapping[str, str] = {}
    #: the published sizes
    sizes: Sequence[Published] = ()
    #: LoRA format -> what other programs get wrong in it about layers outside of blocks
    outer_fate: Mapping[str, str] = {}

    def same_layers(self, other: LayerNames) -> bool:
        """Return whether LoRA files for both have the same layers."""
        return self.blocks == other.blocks and self.outer == other.outer

    def native_names(self, layers: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """Return native layer name -> the diffusers layers that it fuses, for these diffusers layer names."""
        native: dict[str, list[str]] = {}
        for layer in layers:
            native.setdefault(self._native_name(layer), []).append(layer)
        return {name: tuple(sorted(parts, key=_place_in_fused)) for name, parts in native.items()}

    def _native_name(self, layer: str) -> str:
        kind, _, rest = layer.partition(".")
        if kind in self.blocks:
            index, _, inner = rest.partition(".")
            return f"{self.blocks[kind].native}.{index}.{self.blocks[kind].layers.get(inner, inner)}"
        return self.outer.get(layer, layer)

    def format_of(self, word: str, layers: Iterable[str]) -> str:
        """Return the LoRA format that `save_model_as` means for these layers, by default what most UIs read."""
        if word not in ("auto", "safetensors"):
            return word
        lost = self.default_format in self.outer_fate and any(map(is_outer, layers))
        return "diffusers" if lost else self.default_format

    def swapped_layers(self, layers: Sequence[str]) -> frozenset[str]:
        """Return the layers whose scale and shift halves are in the other order natively."""
        return frozenset()

    def reference_layers(self) -> list[str]:
        """Return the names of all linear layers of the largest published model, to convert files without a model."""
        inside = [
            f"{kind}.{index}.{layer}"
            for kind, blocks in self.blocks.items()
            for index in range(blocks.depth)
            for layer in blocks.layers
        ]
        return inside + list(self.outer)

    def layout(self, transformer: torch.nn.Module) -> Layout:
        """Return the LoRA names of this transformer, with the shapes of its linear layers."""
        linears = {name: m for name, m in transformer.named_modules() if isinstance(m, torch.nn.Linear)}
        names = {name.removesuffix(".base_layer"): m for name, m in linears.items() if ".lora_" not in name}
        return self.layout_of({name: (m.out_features, m.in_features) for name, m in names.items()})

    def reference_layout(self) -> Layout:
        """Return the LoRA names of the largest published model, without shapes."""
        return self.layout_of(dict.fromkeys(self.reference_layers()))

    def layout_of(self, shapes: Mapping[str, tuple[int, int] | None]) -> Layout:
        """Return the LoRA names of these diffusers layers; a shape is None if only the name is known."""
        layers = list(shapes)
        ratios = {layer: ratio for end, ratio in self.ratios.items() for layer in layers if layer.endswith("." + end)}
        native = self.native_names(layers)
        return Layout(
            family=self.name,
            title=self.file_title or self.title,
            shapes=shapes,
            native=native,
            swapped=self.swapped_layers(layers),
            ratios=ratios,
            aliases=self._aliases(native),
            convolutions=frozenset([*self.convolutions, *self.convolutions.values()]),
            sizes=self.sizes,
            outer_fate=self.outer_fate,
            **self.file_names,
        )

    def _aliases(self, native: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        """`tool_names` of every block -> the diffusers layers."""
        depth = max((blocks.depth for blocks in self.blocks.values()), default=0)
        named = {
            name.format(index): (layer.format(index), count)
            for name, (layer, count) in self.tool_names.items()
            for index in range(depth)
        }
        return {name: native[layer][:count] for name, (layer, count) in named.items() if layer in native}


def _place_in_fused(layer: str) -> int:
    return next((place for place, end in enumerate(FUSED_ORDER) if layer.endswith(end)), 0)

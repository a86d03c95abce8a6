"""Checks by their headers that files are the parts of a model that they are given as, before a weight is read."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from danceopd_ext.errors import UserError, shorten
from danceopd_ext.models.part_modules import misfit, part_module
from danceopd_ext.models.registry import family_of_checkpoint
from danceopd_ext.models.scaled_weights import plain_names
from danceopd_ext.models.split_files import FoundPart, keys_for, where_comfyui_keeps

if TYPE_CHECKING:
    from danceopd_ext.models.family import Family

#: parts of tensor names -> what a file with them is
KINDS = (
    ((".lora_", "lora_unet", "lora_te", ".lokr_", ".hada_"), "a LoRA"),
    (("decoder.conv_in.", "decoder.conv1.", "decoder.mid_block."), "a VAE"),
    (("text_model.encoder.layers.", "transformer.resblocks."), "a CLIP text encoder"),
    (("layer.0.SelfAttention.",), "a T5 text encoder"),
    (("layers.0.self_attn.",), "a language model"),
)


def check_part(family: Family, part: FoundPart, components: Path) -> None:
    """Raise UserError unless the file's tensors are those that the component's configuration describes."""
    if not part.spec.described_in(components):
        raise UserError(
            f"{part.path} ({part.key}): {components} has no {part.spec.component}, so that the {part.spec.title} has "
            "no configuration. Name another model in components_from, or remove the key."
        )
    shapes = plain_names(part.path, *part.header())
    reason = misfit(part_module(family, part.spec, components, shapes), shapes)
    if reason and part.included:
        raise UserError(
            f"{part.path} includes another {part.spec.title} than that of {family.title}: {reason}. Name the file of "
            f"the right one: {keys_for([part.spec])}."
        )
    if not reason:
        return
    raise UserError(
        f"{part.path} ({part.key}) is not the {part.spec.title} of {family.title}: {reason}. "
        f"{_what_it_is(family, part, shapes, components)} {where_comfyui_keeps(part.spec)}"
    )


def _what_it_is(family: Family, part: FoundPart, shapes: dict, components: Path) -> str:
    for spec in family.part_files:
        other = spec != part.spec and spec.described_in(components)
        if other and not misfit(part_module(family, spec, components, shapes), shapes):
            return f"It is the {spec.title}: give it as {spec.key}."
    return f"It seems to be {kind_of(shapes)}."


def kind_of(names: Iterable[str]) -> str:
    """Return in words what a file with these tensors seems to be."""
    names = list(names)
    if found := next((what for marks, what in KINDS if any(mark in name for mark in marks for name in names)), None):
        return found
    if found := family_of_checkpoint(names):
        return f"the transformer of {found.title}"
    return f"another kind of file: its first tensor is {shorten(names[0]) if names else 'missing'}"

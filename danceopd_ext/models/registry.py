"""The model families by name. A new family is a file beside this one and a line here."""

from __future__ import annotations

from collections.abc import Iterable

from danceopd_ext.models.family import Family
from danceopd_ext.models.flux_2_names import Flux2Names
from danceopd_ext.models.flux_names import FluxNames
from danceopd_ext.models.layer_names import LayerNames
from danceopd_ext.models.qwen_image_names import QwenImageNames
from danceopd_ext.models.sd3 import StableDiffusion3
from danceopd_ext.models.z_image import ZImage

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        StableDiffusion3(),
        ZImage(),
    )
}

#: every architecture whose LoRA files are read and written, by name; the first wins where names cannot tell
NAMES: dict[str, LayerNames] = {
    names.name: names
    for names in (
        StableDiffusion3(),
        ZImage(),
        FluxNames(),
        Flux2Names(),
        QwenImageNames(),
    )
}


def family_of_pipeline(class_name: str) -> Family | None:
    """The family whose diffusers pipeline has this class name (model_index.json `_class_name`)."""
    return next((f for f in FAMILIES.values() if f.pipeline_class == class_name), None)


def family_of_checkpoint(tensor_names: Iterable[str]) -> Family | None:
    """The family that a checkpoint's tensor names belong to."""
    names = list(tensor_names)
    for family in FAMILIES.values():
        if any(mark in name for name in names for mark in family.checkpoint_marks):
            return family
    return None

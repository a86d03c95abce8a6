"""The model families by name. A new family is a file beside this one and a line here."""

from __future__ import annotations

from collections.abc import Iterable

from danceopd_ext.models.family import Family
from danceopd_ext.models.flux import Flux, FluxKontext
from danceopd_ext.models.flux_2 import Flux2, Flux2Klein
from danceopd_ext.models.flux_2_names import Flux2Names
from danceopd_ext.models.flux_names import FluxNames
from danceopd_ext.models.layer_names import LayerNames
from danceopd_ext.models.qwen_image import QwenImage, QwenImageEdit, QwenImageEditPlus
from danceopd_ext.models.qwen_image_names import QwenImageNames
from danceopd_ext.models.sd3 import StableDiffusion3
from danceopd_ext.models.z_image import ZImage
from danceopd_ext.models.z_image_omni import ZImageOmni

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        StableDiffusion3(),
        ZImageOmni(),
        ZImage(),
        Flux(),
        FluxKontext(),
        Flux2(),
        Flux2Klein(),
        QwenImage(),
        QwenImageEdit(),
        QwenImageEditPlus(),
    )
}

#: every architecture whose LoRA files are read and written, by name; the first wins where names cannot tell
NAMES: dict[str, LayerNames] = {
    names.name: names
    for names in (
        StableDiffusion3(),
        ZImage(),
        ZImageOmni(),
        FluxNames(),
        Flux2Names(),
        QwenImageNames(),
    )
}


def names_of(model_type: str) -> LayerNames:
    """The layer names of a family's LoRA files, by its name in `NAMES` or `FAMILIES`. Raises KeyError."""
    if model_type in NAMES:
        return NAMES[model_type]
    return next(names for names in NAMES.values() if isinstance(FAMILIES[model_type], type(names)))


def family_of_pipeline(class_name: str) -> Family | None:
    """The family whose diffusers pipeline has this class name (model_index.json `_class_name`)."""
    return next((f for f in FAMILIES.values() if f.pipeline_class == class_name), None)


def family_of_checkpoint(tensor_names: Iterable[str], model_type: str | None = None) -> Family | None:
    """The family that a checkpoint's tensor names belong to; `model_type` chooses where they can be of several.

    Models that draw and models that edit often have the same names; the first, which draws, is then taken.
    """
    names = list(tensor_names)
    possible = [family for family in FAMILIES.values() if family.knows_checkpoint(names)]
    return next((family for family in possible if family.name == model_type), possible[0] if possible else None)

"""Lists the model families by name. A new family is one file in this folder and one line in `CLASSES`.

A family is imported when it is first used: reading presets needs only the names.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from danceopd_ext.models.family import Family

#: model_type -> the module and class of the family. If a file fits several families, the first is taken, so a family
#: that only draws stands before one that also edits.
CLASSES: dict[str, str] = {
    "sd3": "danceopd_ext.models.sd3:StableDiffusion3",
    "z_image": "danceopd_ext.models.z_image:ZImage",
    "z_image_omni": "danceopd_ext.models.z_image_omni:ZImageOmni",
    "flux": "danceopd_ext.models.flux:Flux",
    "flux_kontext": "danceopd_ext.models.flux:FluxKontext",
    "flux_2": "danceopd_ext.models.flux_2:Flux2",
    "flux_2_klein": "danceopd_ext.models.flux_2:Flux2Klein",
    "qwen_image": "danceopd_ext.models.qwen_image:QwenImage",
    "qwen_image_edit": "danceopd_ext.models.qwen_image:QwenImageEdit",
    "qwen_image_edit_plus": "danceopd_ext.models.qwen_image:QwenImageEditPlus",
}


@functools.cache
def _made(name: str, place: str) -> Family:
    """Return the family at `module:class`, whose name must be `name`."""
    module, _, cls = place.partition(":")
    family = getattr(importlib.import_module(module), cls)()
    if family.name != name:
        raise ValueError(f"{place} is registered as {name} and calls itself {family.name}")
    return family


class _Families(Mapping[str, "Family"]):
    """Every family of `CLASSES`, by its model_type."""

    def __getitem__(self, name: str) -> Family:
        return _made(name, CLASSES[name])

    def __iter__(self) -> Iterator[str]:
        return iter(CLASSES)

    def __contains__(self, name: object) -> bool:
        return name in CLASSES

    def __len__(self) -> int:
        return len(CLASSES)


class _Architectures(Mapping[str, "Family"]):
    """Return the families whose LoRA files differ: the first of those that share their layers."""

    def _found(self) -> dict[str, Family]:
        found: dict[str, Family] = {}
        for name, family in FAMILIES.items():
            if not any(family.same_layers(earlier) for earlier in found.values()):
                found[name] = family
        return found

    def __getitem__(self, name: str) -> Family:
        return self._found()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found())

    def __len__(self) -> int:
        return len(self._found())


FAMILIES: Mapping[str, Family] = _Families()

#: every architecture whose LoRA files are read and written, by name; the first wins if names do not decide
NAMES: Mapping[str, Family] = _Architectures()


def names_of(model_type: str) -> Family:
    """Return the entry of `NAMES` for a family's LoRA files. Raises KeyError."""
    family = FAMILIES[model_type]
    return next(names for names in NAMES.values() if family.same_layers(names))


def family_of_pipeline(class_name: str) -> Family | None:
    """Return the family whose diffusers pipeline has this class name (model_index.json `_class_name`)."""
    return next((f for f in FAMILIES.values() if f.pipeline_class == class_name), None)


def family_of_checkpoint(tensor_names: Iterable[str], model_type: str | None = None) -> Family | None:
    """Return the family that a checkpoint's tensor names belong to; `model_type` chooses if several fit.

    Models that draw and models that edit often have the same names; the first, which draws, is then used.
    """
    names = list(tensor_names)
    possible = [family for family in FAMILIES.values() if family.knows_checkpoint(names)]
    return next((family for family in possible if family.name == model_type), possible[0] if possible else None)

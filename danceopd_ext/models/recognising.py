"""Recognises a model's family by its files: by the pipeline of a folder, or by the tensors' names of a single file."""

from __future__ import annotations

from pathlib import Path

from danceopd_ext.errors import UserError
from danceopd_ext.foreign.json import read_object
from danceopd_ext.foreign.tensors import read_header
from danceopd_ext.models.family import Family
from danceopd_ext.models.gguf_files import gguf_names, is_gguf
from danceopd_ext.models.model_folder import INDEX
from danceopd_ext.models.part_checks import kind_of
from danceopd_ext.models.registry import FAMILIES, family_of_checkpoint, family_of_pipeline
from danceopd_ext.models.split_files import SAFE


def family_of_folder(folder: Path, where: str) -> Family:
    """Return the family of a diffusers folder. `where`: what the user calls it. Raises UserError if it has none."""
    class_name = read_object(folder / INDEX, "model index")["_class_name"]  # check_folder has checked that it is text
    family = family_of_pipeline(class_name)
    if family is None:
        known = ", ".join(f"{f.title} ({f.pipeline_class})" for f in FAMILIES.values())
        raise UserError(f"{where} is a {class_name}; the native toolkit trains {known}.")
    return family


def checkpoint_keys(path: Path) -> list[str]:
    """Return the tensor names of a .safetensors or .gguf file.

    Raises UserError if it is another kind of file or damaged.
    """
    if is_gguf(path):
        return gguf_names(path)
    if path.suffix not in SAFE:
        raise UserError(
            f"{path}: a checkpoint must be a .safetensors or .gguf file; a {path.suffix or 'nameless'} file "
            "can run code when opened. Convert it to .safetensors first."
        )
    return list(read_header(path, "checkpoint").shapes)


def family_of_file(path: Path, model_type: str | None) -> Family:
    """Return the family of a single file; `model_type` chooses if several fit. Raises UserError if none does."""
    keys = checkpoint_keys(path)
    family = family_of_checkpoint(keys, model_type)
    if family is None:
        known = ", ".join(f.title for f in FAMILIES.values())
        raise UserError(f"{path} is not a checkpoint of {known}. It seems to be {kind_of(keys)}.")
    return family


def check_type(family: Family, model_type: str | None, where: str) -> None:
    """Raise UserError if the preset names another family than the model's."""
    if model_type and model_type != family.name:
        raise UserError(f'model_type = "{model_type}", but {where} is {family.title} (model_type = "{family.name}").')

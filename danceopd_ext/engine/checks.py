"""Checks a model's files and its attention backend before weights are loaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePath

import diffusers
import torch

from danceopd_ext.engine.block_swap import most_swapped
from danceopd_ext.errors import UserError
from danceopd_ext.foreign.json import read_object
from danceopd_ext.models.family import Family
from danceopd_ext.models.layout import Layout
from danceopd_ext.models.loading import check_parts, text_encoders
from danceopd_ext.models.model_files import ModelFiles
from danceopd_ext.models.part_checks import check_part
from danceopd_ext.models.quantising import check_quantisation
from danceopd_ext.models.recognising import checkpoint_keys
from danceopd_ext.models.split_files import keys_for


def check_weights(files: ModelFiles) -> None:
    """Raise UserError for a weight file that is missing or incomplete, or a configuration that describes no model.

    Of a model that is still on the hub, only the parts that the user has as files are checked: the others are not here
    yet.
    """
    for part in files.parts:
        check_part(files.family, part, files.components)
    if files.hub:
        return
    check_transformer(files)
    check_parts(files)
    _check_lacking(files)
    for folder in text_encoders(files):
        if not files.part(folder.name):
            _check_folder(folder)


def _check_lacking(files: ModelFiles) -> None:
    """Raise UserError, which names all, for parts of which there are neither weights in the folder nor a file."""
    folders = {spec: files.components / spec.component for spec in files.lacking if spec.described_in(files.components)}
    lacking = [spec for spec, folder in folders.items() if not any(folder.glob("*.safetensors"))]
    if lacking:
        what = " and ".join(f"the {spec.title}" for spec in lacking)
        raise UserError(
            f"{files.components} has no weights of {what} (no .safetensors file in "
            f"{', '.join(spec.component for spec in lacking)}): download the model again, or name the files that you "
            f"have: {keys_for(lacking)}.{_pickles(*(folders[spec] for spec in lacking))}"
        )


def check_transformer(files: ModelFiles) -> None:
    """Check the transformer's files as `check_weights` does, for a model of which nothing else is used."""
    if files.hub:
        return
    if files.transformer.is_file():
        checkpoint_keys(files.transformer)
    else:
        _check_folder(files.transformer / "transformer")


def _check_folder(folder: Path) -> None:
    files = sorted(folder.glob("*.safetensors"))
    for file in files:
        checkpoint_keys(file)
    for index in sorted(folder.glob("*.safetensors.index.json")):
        _check_shards(index)
    if not files:
        raise UserError(f"{folder} has no weights (no .safetensors file): download the model again.{_pickles(folder)}")


def _pickles(*folders: Path) -> str:
    """Return the sentence on files that are not read, if one of the folders has some."""
    found = any(any(folder.glob("*.bin")) for folder in folders)
    return " A .bin file can run code when opened, and is not read." if found else ""


def _check_shards(index: Path) -> None:
    """Raise UserError unless every file that the index of a sharded model names is beside it."""
    remedy = "Download the model again."
    parts = read_object(index, "index of the model's parts", remedy).get("weight_map")
    if not isinstance(parts, dict) or not all(isinstance(part, str) for part in parts.values()):
        raise UserError(f"{index}: weight_map must be a table of tensor = file. {remedy}")
    for part in sorted(set(parts.values())):
        if part != PurePath(part).name or part in (".", "..") or not (index.parent / part).is_file():
            raise UserError(f'{index}: there is no file "{part}" beside it, which holds a part of the model. {remedy}')


def check_quantised(files: ModelFiles, device: torch.device, base: str | None, text_encoders: str | None) -> None:
    """Raise UserError for a number format that does not work here, or for a file that has one of its own already.

    `base`, `text_encoders`: the words of quantize and quantize_text_encoders, or None.
    """
    for key, word in (("quantize", base), ("quantize_text_encoders", text_encoders)):
        if word:
            check_quantisation(word, device, key)
    if base and files.is_quantised and files.transformer.suffix != ".safetensors":  # float8 can be packed otherwise
        raise UserError(f'{files.transformer} is quantised already: remove quantize = "{base}".')


def check_attention(family: Family, config: Mapping, name: str) -> None:
    """Select the attention backend on a model without weights. Raises UserError (see `select_attention`)."""
    if name != "sdpa":
        with torch.device("meta"):
            transformer = getattr(diffusers, family.transformer_class).from_config(config)
        select_attention(family, transformer, name)


def check_swap(family: Family, layout: Layout, swapped: int, key: str = "blocks_to_swap") -> None:
    """Raise UserError if the model has too few blocks for `blocks_to_swap`; `key`: what the user calls it."""
    blocks = family.count_blocks(layout.shapes)
    most = most_swapped(blocks)
    if swapped <= most:
        return
    remedy = f"Use {most} or less." if most else "Leave it out."
    raise UserError(
        f"{key} = {swapped}: {family.title} has {blocks} blocks here, and at most {most} of them can stay in main "
        f"memory while the others compute. {remedy}"
    )


def select_attention(family: Family, transformer: torch.nn.Module, name: str) -> None:
    """Choose the attention backend. Raises UserError naming the key if it does not exist or does not work here."""
    try:
        family.select_attention(transformer, name)
    except (ValueError, RuntimeError, ImportError, OSError) as error:
        reason = str(error).strip().rstrip(".")
        raise UserError(f'attn_mode = "{name}" does not work here: {reason}. Use "sdpa", which always does.') from error

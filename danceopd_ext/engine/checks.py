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
from danceopd_ext.models.gguf_files import is_gguf
from danceopd_ext.models.layout import Layout
from danceopd_ext.models.loading import check_parts
from danceopd_ext.models.model_files import ModelFiles, checkpoint_keys
from danceopd_ext.models.quantising import check_quantisation


def check_weights(files: ModelFiles) -> None:
    """Raise UserError for a weight file that is missing or incomplete, or a configuration that describes no model.

    A model that is still on the hub is not checked: its files are not here yet.
    """
    if files.hub:
        return
    check_transformer(files)
    check_parts(files)
    for folder in files.text_files:
        if folder.name.startswith("text_encoder"):
            _check_folder(folder)


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
        pickles = " A .bin file can run code when opened, and is not read." if any(folder.glob("*.bin")) else ""
        raise UserError(f"{folder} has no weights (no .safetensors file): download the model again.{pickles}")


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
    if base and is_gguf(files.transformer):
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

"""Finds a model's files: a hub id, a diffusers folder or a single .safetensors file.

A hub model is downloaded in two steps: `find_model_files` gets a few small files, enough for all checks, and `fetch`
gets the rest.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import diffusers
from huggingface_hub import snapshot_download

from danceopd_ext.errors import UserError, first_line
from danceopd_ext.foreign.files import check_file
from danceopd_ext.foreign.hub import hub_refusal, no_such_file, repository_of
from danceopd_ext.foreign.json import read_object
from danceopd_ext.foreign.tensors import read_header
from danceopd_ext.models.configuration import built_from, library_class, read_configuration
from danceopd_ext.models.family import Family
from danceopd_ext.models.gguf_files import gguf_names, is_gguf
from danceopd_ext.models.model_folder import INDEX, check_folder
from danceopd_ext.models.registry import FAMILIES, family_of_checkpoint, family_of_pipeline

#: the largest width of a latent in pixels
MOST_PIXELS = 1024
#: what tells a model's family, layers and sizes; its pipeline uses these files too, so that none is fetched in vain
CHECKED_FILES = (INDEX, "transformer/config.json", "vae/config.json")


@dataclass(frozen=True)
class ModelFiles:
    """Where a model comes from.

    `transformer`: a diffusers folder or a single file. `components`: a diffusers folder with everything else. `name`:
    for messages and metadata, never a local path. `hub`: the id of a model of which only CHECKED_FILES are sure to be
    in its folder; `fetch` brings the rest. It is None if everything is here.
    """

    family: Family
    transformer: Path
    components: Path
    name: str
    hub: str | None = None

    @property
    def is_quantised(self) -> bool:
        """Whether the transformer's file holds weights in float8 or in a format of GGUF."""
        path = self.transformer
        if not path.is_file() or is_gguf(path):
            return is_gguf(path)
        return any(kind.startswith("F8_") for kind in read_header(path, "checkpoint").kinds.values())

    @property
    def text_files(self) -> list[Path]:
        """Return the folders that determine the text encoders' output; a cache is keyed by their content."""
        return [self.components / part for part in self.family.text_parts if (self.components / part).is_dir()]

    @property
    def vae_scale_factor(self) -> int:
        """Return the pixels per latent, from the VAE's configuration alone."""
        config = read_configuration(self.components, "vae", library_class(self.family.vae_class))
        with built_from(self.components / "vae" / "config.json"):
            pixels = self.family.latent_scale.pixels_per_latent(config)
            if not 0 < pixels <= MOST_PIXELS:
                raise ValueError(f"one latent is {pixels:.0e} pixels wide")
            return pixels


def find_model_files(
    where: str,
    model_type: str | None = None,
    components_from: str | None = None,
    key: str = "pretrained_model_name_or_path",
) -> ModelFiles:
    """Locate a model and its family without loading or downloading weights.

    where: hub id, diffusers folder or .safetensors file. components_from: what supplies text encoders, VAE, scheduler
    and configuration for a single file; by default the family's own hub model. key: what the user calls `where`.
    Raises UserError if nothing is found, if the family is unknown, or if `model_type` contradicts what was found.
    """
    path = Path(where)
    if os.path.isfile(path):  # os.path, here and below: Path.is_file raises for a name that is too long
        family = _family_of_file(path, model_type)
        _check_type(family, model_type, where)
        others = components_from or family.default_components
        return ModelFiles(family, path, _folder(others, "components_from"), path.stem, _hub_id(others))
    if os.path.exists(path) and not os.path.isdir(path):  # a pipe or a device, which could block forever
        check_file(path, f"model ({key})")
    folder, hub = _folder(where, key), _hub_id(where)
    family = _family_of_folder(folder, where)
    _check_type(family, model_type, where)
    return ModelFiles(family, folder, folder, hub or folder.name, hub)


def fetch(files: ModelFiles) -> ModelFiles:
    """Return the same model with local weights: download what is still on the hub. Raises UserError."""
    if files.hub is None:
        return files
    try:
        folder = Path(diffusers.DiffusionPipeline.download(files.hub, use_safetensors=True, trust_remote_code=False))
    except Exception as error:  # the hub client raises its own, transport and OS errors
        raise UserError(
            f"{files.hub}: the model could not be downloaded completely ({first_line(error)}). Check your "
            "connection and the free disk space; finished downloads are kept."
        ) from error
    check_folder(folder)  # the rest of it, and perhaps a newer index
    transformer = files.transformer if files.transformer.is_file() else folder
    return replace(files, transformer=transformer, components=folder, hub=None)


def _folder(where: str, key: str) -> Path:
    """Return the local folder of a diffusers pipeline: `where` itself, or that of its CHECKED_FILES from the hub."""
    path = Path(where)
    if os.path.isdir(path):
        if (path / INDEX).is_file():
            check_folder(path)
            return path
        raise UserError(f"{where} ({key}) is not a diffusers pipeline folder: {INDEX} is missing.")
    if path.suffix in (".ckpt", ".pt", ".bin", ".pth"):
        raise UserError(
            f"{where} ({key}): a {path.suffix} file can run code when opened; use its .safetensors version."
        )
    if not _hub_id(where):
        hint = no_such_file(path).partition("no such file or folder")[2].lstrip(";. ")
        raise UserError(
            f"{where} ({key}) was not found. Give a hub id, a diffusers folder or a .safetensors file. {hint}".strip()
        )
    return _checked_files(where, key)


def _hub_id(where: str) -> str | None:
    """Return `where` if it can be a model on the hub and nothing local has this name."""
    return where if repository_of(where) == where and not os.path.lexists(where) else None


def _checked_files(where: str, key: str) -> Path:
    """Return the folder of a hub model with its CHECKED_FILES (a few kilobytes) and earlier downloads."""
    try:
        folder = Path(snapshot_download(where, allow_patterns=list(CHECKED_FILES)))
    except Exception as error:  # the hub client raises its own, transport and OS errors
        raise UserError(
            f"{where} ({key}) is not a local file or folder, and it could not be downloaded from the hub "
            f"({hub_refusal(error, where)}). If it is local, check the path (the current folder is {Path.cwd()}). If "
            "it is on the hub, check the spelling and your connection; a gated model needs `hf auth login` first."
        ) from error
    if not (folder / INDEX).is_file():
        raise UserError(
            f"{where} ({key}): its {INDEX} is not on the hub. It is not a diffusers pipeline; or, if you have no "
            "connection, it has not been downloaded yet."
        )
    check_folder(folder)
    return folder


def _family_of_folder(folder: Path, where: str) -> Family:
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
    if path.suffix != ".safetensors":
        raise UserError(
            f"{path}: a checkpoint must be a .safetensors or .gguf file; a {path.suffix or 'nameless'} file "
            "can run code when opened. Convert it to .safetensors first."
        )
    return list(read_header(path, "checkpoint").shapes)


def _family_of_file(path: Path, model_type: str | None) -> Family:
    keys = checkpoint_keys(path)
    family = family_of_checkpoint(keys, model_type)
    if family is None:
        known = ", ".join(f.title for f in FAMILIES.values())
        raise UserError(
            f"{path} is not a checkpoint of {known} (its first tensor is {keys[0] if keys else 'missing'})."
        )
    return family


def _check_type(family: Family, model_type: str | None, where: str) -> None:
    if model_type and model_type != family.name:
        raise UserError(f'model_type = "{model_type}", but {where} is {family.title} (model_type = "{family.name}").')

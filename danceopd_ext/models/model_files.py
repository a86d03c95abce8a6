"""Finds a model's files: a hub id, a diffusers folder or a single .safetensors file, and parts in files of their own.

A hub model is downloaded in two steps: `find_model_files` gets a few small files, enough for all checks, and `fetch`
gets the rest.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import diffusers
from huggingface_hub import snapshot_download

from danceopd_ext.errors import UserError, first_line
from danceopd_ext.foreign.files import check_file
from danceopd_ext.foreign.hub import hub_refusal, no_such_file, repository_of
from danceopd_ext.foreign.tensors import read_header
from danceopd_ext.models.configuration import built_from, library_class, read_configuration
from danceopd_ext.models.family import Family
from danceopd_ext.models.gguf_files import is_gguf
from danceopd_ext.models.model_folder import INDEX, check_folder
from danceopd_ext.models.part_files import PartFile
from danceopd_ext.models.recognising import check_type, family_of_file, family_of_folder
from danceopd_ext.models.split_files import SAFE, FoundPart, find_parts, give_files

#: the largest width of a latent in pixels
MOST_PIXELS = 1024
#: endings of a model in a single file
SINGLE = (*SAFE, ".gguf")
#: what tells a model's family, layers and sizes; its pipeline uses these files too, so that none is fetched in vain
CHECKED_FILES = (INDEX, "transformer/config.json", "vae/config.json")


@dataclass(frozen=True)
class ModelFiles:
    """Where a model comes from.

    `transformer`: a diffusers folder or a single file. `components`: a diffusers folder with everything else, except
    the weights of `parts`, which the user has as files. `name`: for messages and metadata, never a local path. `hub`:
    the id of a model of which only CHECKED_FILES, and the configurations of `parts`, are sure to be in its folder;
    `fetch` brings the rest. It is None if everything is here.
    """

    family: Family
    transformer: Path
    components: Path
    name: str
    hub: str | None = None
    parts: tuple[FoundPart, ...] = ()

    def part(self, component: str) -> FoundPart | None:
        """Return where this component's weights are if they are a file, or pieces of one."""
        return next((part for part in self.parts if part.spec.component == component), None)

    def content(self, components: Iterable[str]) -> list[Path]:
        """Return the files and folders that hold these components, as far as the model has them.

        A cache is keyed by their content.
        """
        found: list[Path] = []
        for component in components:
            folder, part = self.components / component, self.part(component)
            if part:
                found += [folder / "config.json", *part.files]
            elif folder.is_dir():
                found.append(folder)
        return found

    @property
    def is_quantised(self) -> bool:
        """Whether the transformer's file holds float8 or GGUF, or its folder says that it was saved quantised."""
        path = self.transformer
        if not path.is_file():
            config = read_configuration(path, "transformer", library_class(self.family.transformer_class))
            return bool(config.get("quantization_config"))
        if is_gguf(path):
            return True
        others = tuple(prefix for spec in self.family.part_files for prefix in spec.inside)
        kinds = read_header(path, "checkpoint").kinds
        return any(kind.startswith("F8_") for name, kind in kinds.items() if not name.startswith(others))

    @property
    def text_files(self) -> list[Path]:
        """Return the files and folders that determine the text encoders' output."""
        return self.content(self.family.text_parts)

    @property
    def lacking(self) -> list[PartFile]:
        """Return the parts that the family can take as files and that are not given so."""
        return [spec for spec in self.family.part_files if not self.part(spec.component)]

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
    parts: Mapping[str, str] | None = None,
) -> ModelFiles:
    """Locate a model and its family without loading or downloading weights.

    where: hub id, diffusers folder or .safetensors file. components_from: what supplies text encoders, VAE, scheduler
    and configuration for a single file; by default the family's own hub model. key: what the user calls `where`.
    parts: preset key of a part -> its file, such as vae -> ae.safetensors; parts that a single file includes are used
    too.
    Raises UserError if nothing is found, if the family is unknown, or if `model_type` contradicts what was found.
    """
    path = Path(where)
    if os.path.isfile(path):  # os.path, here and below: Path.is_file raises for a name that is too long
        family = family_of_file(path, model_type)
        check_type(family, model_type, where)
        others = components_from or family.default_components
        found = find_parts(family, parts or {}, None if is_gguf(path) else path)
        hint = give_files(family, found)
        folder = _folder(others, "components_from", hint, found)
        # SD3 goes without T5 if its folder has none, whatever the checkpoint includes
        found = tuple(part for part in found if not part.included or part.spec.described_in(folder))
        return ModelFiles(family, path, folder, path.stem, _hub_id(others), found)
    if os.path.exists(path) and not os.path.isdir(path):  # a pipe or a device, which could block forever
        check_file(path, f"model ({key})")
    folder, hub = _folder(where, key), _hub_id(where)
    family = family_of_folder(folder, where)
    check_type(family, model_type, where)
    found = find_parts(family, parts or {}, None)
    if hub and found:
        folder = _checked_files(where, key, "", found)
    return ModelFiles(family, folder, folder, hub or folder.name, hub, found)


def fetch(files: ModelFiles) -> ModelFiles:
    """Return the same model with local weights: download what is still on the hub. Raises UserError."""
    if files.hub is None:
        return files
    held = {part.spec.component: None for part in files.parts}  # what is passed is not downloaded
    if files.transformer.is_file():
        held["transformer"] = None
    try:
        folder = Path(
            diffusers.DiffusionPipeline.download(files.hub, use_safetensors=True, trust_remote_code=False, **held)
        )
        if held:
            # of the same commit, whose number is the folder's name
            snapshot_download(files.hub, revision=folder.name, allow_patterns=_small_files(files.parts))
    except Exception as error:  # the hub client raises its own, transport and OS errors
        raise UserError(
            f"{files.hub}: the model could not be downloaded completely ({first_line(error)}). Check your "
            "connection and the free disk space; finished downloads are kept."
            + (give_files(files.family, files.parts) if files.transformer.is_file() else "")
        ) from error
    check_folder(folder)  # the rest of it, and perhaps a newer index
    transformer = files.transformer if files.transformer.is_file() else folder
    return replace(files, transformer=transformer, components=folder, hub=None)


def _small_files(parts: Iterable[FoundPart]) -> list[str]:
    """Return the names of CHECKED_FILES, and of the configurations of parts whose weights are files."""
    return list(dict.fromkeys([*CHECKED_FILES, *(f"{part.spec.component}/config.json" for part in parts)]))


def _folder(where: str, key: str, hint: str = "", parts: tuple[FoundPart, ...] = ()) -> Path:
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
        if path.suffix.lower() in SINGLE:
            hint += " ComfyUI keeps such files in models/diffusion_models, models/unet or models/checkpoints."
        raise UserError(
            f"{where} ({key}) was not found. Give a hub id, a diffusers folder or a .safetensors file. {hint}".strip()
        )
    return _checked_files(where, key, hint, parts)


def _hub_id(where: str) -> str | None:
    """Return `where` if it can be a model on the hub and nothing local has this name."""
    return where if repository_of(where) == where and not os.path.lexists(where) else None


def _checked_files(where: str, key: str, hint: str, parts: tuple[FoundPart, ...]) -> Path:
    """Return the folder of a hub model with its small files (a few kilobytes) and earlier downloads.

    `hint`: ends the message if the hub cannot be reached.
    """
    try:
        folder = Path(snapshot_download(where, allow_patterns=_small_files(parts)))
    except Exception as error:  # the hub client raises its own, transport and OS errors
        raise UserError(
            f"{where} ({key}) is not a local file or folder, and it could not be downloaded from the hub "
            f"({hub_refusal(error, where)}). If it is local, check the path (the current folder is {Path.cwd()}). If "
            "it is on the hub, check the spelling and your connection; a gated model needs `hf auth login` first."
            + hint
        ) from error
    if not (folder / INDEX).is_file():
        raise UserError(
            f"{where} ({key}): its {INDEX} is not on the hub. It is not a diffusers pipeline; or, if you have no "
            f"connection, it has not been downloaded yet.{hint}"
        )
    check_folder(folder)
    return folder

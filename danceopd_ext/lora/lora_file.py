"""Finds and opens a LoRA (a file, a folder or a Hugging Face repository) and returns plain tensors.

The result is checked: tensors are plain numbers on the CPU, their keys have no control characters, the metadata maps
text to text, and the settings for alpha are an object.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from danceopd_ext.errors import UserError, nearest, printable, shorten
from danceopd_ext.foreign.hub import hub_refusal, no_such_file, repository_of
from danceopd_ext.foreign.json import parse_json
from danceopd_ext.foreign.tensors import read_pickle, read_tensors
from danceopd_ext.foreign.text import read_text

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
_PEFT_FILES = ("adapter_model.safetensors", "adapter_model.bin")
_DIFFUSERS_FILES = ("pytorch_lora_weights.safetensors", "pytorch_lora_weights.bin")
#: the entry in which diffusers keeps what PEFT keeps in adapter_config.json
ADAPTER_ENTRY = "lora_adapter_metadata"
#: bytes of an adapter_config.json
MOST_SETTINGS = 16 * 2**20
#: the end of a message about a damaged adapter
_REMEDY = "Download the file again, or ask its author for it."


@dataclass
class LoraFile:
    """An opened file. `config` is the PEFT adapter_config.json in the same folder, if it exists."""

    path: Path
    tensors: dict[str, torch.Tensor]
    metadata: dict[str, str] = field(default_factory=dict)
    config: dict = field(default_factory=dict)


def open_lora_file(place: str | os.PathLike) -> LoraFile:
    """Open `place`: a file, a PEFT or diffusers LoRA folder, `owner/name` or `owner/name/file` on the Hub.

    Raises UserError if nothing is found, if there is more than one candidate, or if the file cannot be read.
    """
    path = Path(os.path.expanduser(place))
    if not os.path.exists(path):  # os.path: Path.exists raises for a name that is too long
        if not _looks_like_hub(str(place)):
            raise UserError(no_such_file(path))
        path = _download(str(place))
    if path.is_dir():
        path = _choose(_names_in(path), path)
    tensors, metadata = _load(path)
    if ADAPTER_ENTRY in metadata:
        adapter_settings(metadata[ADAPTER_ENTRY], f"{path}: its metadata entry {ADAPTER_ENTRY}")
    return LoraFile(path, _by_shown_key(path, tensors), metadata, _peft_config(path))


def _by_shown_key(path: Path, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    shown = {printable(key): tensor for key, tensor in tensors.items()}
    if len(shown) < len(tensors):
        raise UserError(f"{path}: some tensor names differ only in control characters. Ask its author for the file.")
    return shown


def _names_in(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError as error:
        raise UserError(f"{folder}: the folder cannot be read: {error.strerror or error}.") from error


def _looks_like_hub(place: str) -> bool:
    """Return whether this is `owner/name` without a file ending, or `owner/name/…/file`, and not a local path."""
    parts = place.split("/")
    if not repository_of(place) or os.path.isdir(parts[0]) or any(mark in place for mark in "\\:"):
        return False
    is_file = place.endswith(SUFFIXES)
    return all(parts) and (len(parts) >= 3 if is_file else len(parts) == 2)


def _choose(names: list[str], where: str | os.PathLike) -> Path:
    """Return the LoRA file among a folder's `names`. Raises UserError."""
    for known in (*_PEFT_FILES, *_DIFFUSERS_FILES):
        if known in names:
            return Path(where) / known
    if "model_index.json" in names or any(name.startswith("diffusion_pytorch_model") for name in names):
        raise UserError(
            f'{where}: this folder is a complete model, not a LoRA. Use checkpoint = "{where}" instead of lora.'
        )
    candidates = sorted(name for name in names if name.endswith(".safetensors"))
    if len(candidates) == 1:
        return Path(where) / candidates[0]
    if candidates:
        raise UserError(
            f"{where}: the folder has several LoRA files: {', '.join(candidates)}. Give the path of one of them."
        )
    raise UserError(
        f"{where}: no LoRA file in this folder (looked for {', '.join(_PEFT_FILES[:1] + _DIFFUSERS_FILES[:1])})."
    )


def _download(place: str) -> Path:
    """Download one file of a Hub repository; return its local path."""
    import huggingface_hub

    owner, name, *inner = place.split("/")
    repository = f"{owner}/{name}"
    try:
        names = huggingface_hub.list_repo_files(repository)
        file = "/".join(inner) if inner else _choose(names, repository).name
        if file not in names:
            raise UserError(f"{place}: the repository {repository} has no file {file}.{nearest(file, names)}")
        if "adapter_config.json" in names and file in _PEFT_FILES:
            huggingface_hub.hf_hub_download(repository, "adapter_config.json")
        return Path(huggingface_hub.hf_hub_download(repository, file))
    except UserError:
        raise
    except Exception as problem:  # the hub raises its own, requests' and httpx's errors, by version
        raise UserError(
            f"{place}: no such file or folder (the current folder is {Path.cwd()}), and it could not be downloaded "
            f"from huggingface.co/{repository} ({hub_refusal(problem, repository)}). If it is a local file, check the "
            "path; if it is on the Hub, check the name and your connection."
        ) from problem


def _peft_config(path: Path) -> dict:
    file = path.parent / "adapter_config.json"
    if path.name not in _PEFT_FILES or not os.path.exists(file):
        return {}
    return adapter_settings(read_text(file, "settings of the adapter", MOST_SETTINGS), str(file))


def adapter_settings(text: str, where: str) -> dict:
    """Return the settings of an adapter, from JSON; `alphas` checks their values. Raises UserError."""
    settings = parse_json(text, where, _REMEDY, finite=False)
    if not isinstance(settings, dict | None):
        raise UserError(f"{where}: holds {shorten(text.strip())} instead of a JSON object. {_REMEDY}")
    return settings or {}


def _load(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    if path.suffix == ".safetensors":
        return read_tensors(path, "LoRA file")
    if path.suffix in SUFFIXES:
        return _named_tensors(path), {}
    raise UserError(f"{path}: not a LoRA file: its name must end in {', '.join(SUFFIXES)}.")


def _named_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a pickle by name, also if they are in its entry `state_dict`."""
    content = read_pickle(path, "LoRA file")
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict):
        raise UserError(
            f"{path}: holds a {type(content).__name__}, not named tensors. Ask its author for a .safetensors file."
        )
    return {str(key): value for key, value in content.items() if isinstance(value, torch.Tensor)}

"""Finding and opening a LoRA: a file, a folder or a Hugging Face repository, to plain tensors.

What comes out is checked once, here: tensors are plain numbers on the CPU, their keys have no control characters, the
metadata is text by text, and what says how alpha follows is an object with numbers in it.
"""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from danceopd_ext.errors import UserError, few_letters, nearest, printable

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
_PEFT_FILES = ("adapter_model.safetensors", "adapter_model.bin")
_DIFFUSERS_FILES = ("pytorch_lora_weights.safetensors", "pytorch_lora_weights.bin")
#: the entry in which diffusers keeps what PEFT keeps in adapter_config.json
ADAPTER_ENTRY = "lora_adapter_metadata"
#: what people call a folder: never taken for the owner of a Hub repository
_FOLDER_WORDS = ("lora", "loras", "model", "models", "teachers", "output", "outputs", "checkpoints", "data")


@dataclass
class Source:
    """An opened file. `config` is the PEFT adapter_config.json beside it, where there is one."""

    path: Path
    tensors: dict[str, torch.Tensor]
    metadata: dict[str, str] = field(default_factory=dict)
    config: dict = field(default_factory=dict)


def open_source(place: str | os.PathLike) -> Source:
    """Open `place`: a file, a PEFT or diffusers LoRA folder, `owner/name` or `owner/name/file` on the Hub.

    Raises UserError when there is nothing there, more than one candidate, or a file that cannot be read.
    """
    path = Path(os.path.expanduser(place))
    if not path.exists():
        if not _looks_like_hub(str(place)):
            raise UserError(_missing(path))
        path = _download(str(place))
    if path.is_dir():
        path = _choose([file.name for file in path.iterdir()], path)
    tensors, metadata = _load(path)
    if ADAPTER_ENTRY in metadata:
        _adapter_settings(metadata[ADAPTER_ENTRY], f"{path}: its metadata entry {ADAPTER_ENTRY}")
    return Source(path, _plain_tensors(path, tensors), metadata, _peft_config(path))


def _missing(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f"{path}: no such file; its folder {folder} does not exist either. Check the path."
    hint = nearest(path.name, [file.name for file in folder.iterdir()])
    return f"{path}: no such file or folder.{hint or ' Check the path.'}"


def _looks_like_hub(place: str) -> bool:
    """`owner/name` without a file's ending, or `owner/name/…/file`, and not a path into a folder that is here."""
    if any(mark in place for mark in "\\:") or place.startswith((".", "/", "~")) or Path(place.split("/")[0]).is_dir():
        return False
    parts = place.split("/")
    if parts[0].casefold() in _FOLDER_WORDS:
        return False
    is_file = place.endswith(SUFFIXES)
    return all(parts) and (len(parts) >= 3 if is_file else len(parts) == 2)


def _choose(names: list[str], where: str | os.PathLike) -> Path:
    """Pick the LoRA file among a folder's `names`."""
    for known in (*_PEFT_FILES, *_DIFFUSERS_FILES):
        if known in names:
            return Path(where) / known
    if "model_index.json" in names or any(name.startswith("diffusion_pytorch_model") for name in names):
        raise UserError(
            f'{where}: this folder is a whole model, not a LoRA. Use checkpoint = "{where}" instead of lora.'
        )
    candidates = sorted(name for name in names if name.endswith(".safetensors"))
    if len(candidates) == 1:
        return Path(where) / candidates[0]
    if candidates:
        raise UserError(f"{where}: several LoRA files are here: {', '.join(candidates)}. Name the one to use.")
    raise UserError(
        f"{where}: no LoRA in this folder (looked for {', '.join(_PEFT_FILES[:1] + _DIFFUSERS_FILES[:1])})."
    )


def _download(place: str) -> Path:
    """Fetch one file of a Hub repository; returns its local path."""
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
        reason = str(problem).strip().splitlines()
        raise UserError(
            f"{place}: no such file or folder here, and it could not be fetched from huggingface.co/{repository}"
            f" ({reason[0] if reason else type(problem).__name__}). Check the name and the connection."
        ) from problem


def _peft_config(path: Path) -> dict:
    file = path.parent / "adapter_config.json"
    if path.name not in _PEFT_FILES or not file.is_file():
        return {}
    try:
        text = file.read_text(encoding="utf-8")
    except ValueError as problem:
        raise UserError(f"{file}: not UTF-8 text ({problem}). Download the adapter again.") from problem
    return _adapter_settings(text, str(file))


def _adapter_settings(text: str, where: str) -> dict:
    """The settings of an adapter, from JSON; what they say of alpha is checked in `alphas`. Raises UserError."""
    remedy = "Download the file again, or ask its maker for it."
    try:
        settings = json.loads(text)
    except (ValueError, RecursionError) as problem:
        raise UserError(f"{where}: not valid JSON ({few_letters(str(problem))}). {remedy}") from problem
    if not isinstance(settings, dict | None):
        raise UserError(f"{where}: holds {few_letters(text.strip())} instead of an object with settings. {remedy}")
    return settings or {}


def _plain_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors that are plain numbers, by keys that can be shown. Raises UserError for others."""
    for key, tensor in tensors.items():
        odd = tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex() or tensor.is_meta
        try:
            if not odd:
                tensor.flatten()[:1].float()
        except (RuntimeError, NotImplementedError):
            odd = True
        if odd:
            what = "complex" if tensor.is_complex() else str(tensor.dtype).removeprefix("torch.")
            raise UserError(
                f"{path}: {printable(key)} is a {what} tensor whose numbers cannot be read plainly. Use the file in "
                "float32, float16 or bfloat16."
            )
    return {printable(key): tensor.detach() for key, tensor in tensors.items()}


def _load(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    if path.suffix == ".safetensors":
        return load_safetensors(path)
    if path.suffix in SUFFIXES:
        return _load_pickle(path), {}
    raise UserError(f"{path}: not a LoRA file: the name must end in {', '.join(SUFFIXES)}.")


def load_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Return (tensors, metadata). Raises UserError for a damaged file."""
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as problem:
        size = path.stat().st_size
        why = printable(few_letters(str(problem), 200))
        raise UserError(
            f"{path}: cannot be read as safetensors ({why}). It is {size:,} bytes long and truncated or damaged:"
            " download or copy it again."
        ) from problem


def _load_pickle(path: Path) -> dict[str, torch.Tensor]:
    """Read tensors from a pickle without running anything in it."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as problem:
        raise UserError(
            f"{path}: refused: a {path.suffix} file can run code when it is opened, and this one is damaged or holds"
            " more than plain tensors. Ask for a .safetensors file."
        ) from problem
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds a {type(content).__name__}, not named tensors. Ask for a .safetensors file.")
    return {str(key): value for key, value in content.items() if isinstance(value, torch.Tensor)}

"""Encoded texts on disk, in musubi's own cache format, so that the text encoders leave before the model is loaded."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from danceopd_ext.data.fingerprint import fingerprint
from danceopd_ext.errors import UserError
from danceopd_ext.foreign.tensors import read_header
from danceopd_ext.toolkits.musubi.adapter import MusubiAdapter
from danceopd_ext.toolkits.musubi.prompt_data import text_path


def text_folder(adapter: MusubiAdapter, root: Path) -> Path:
    """The folder below `root` that belongs to these text encoders. Raises UserError where one is not given."""
    files = adapter.text_encoder_files()
    for name, path in files.items():
        if path is None:
            raise UserError(f"{name} is missing: prompts and guidance need the text encoder. Name its file.")
        if not path.exists():
            raise UserError(f"{name} = {str(path)!r}: there is no such file or folder.")
    options = "-".join(str(getattr(adapter.args, name, "")) for name in adapter.text_options)
    key = fingerprint(files.values())
    return root / "-".join(filter(None, (adapter.trainer.architecture, key, options)))


def encode_texts(texts: Sequence[str], adapter: MusubiAdapter, folder: Path, accelerator: Any) -> None:
    """Encode the texts that have no cache file yet, each process its share, and wait for all."""
    share = list(dict.fromkeys(texts))[accelerator.process_index :: accelerator.num_processes]
    missing = [text for text in share if not _is_sound(text_path(folder, text))]
    if missing:
        _encode(missing, adapter, folder, accelerator)
    accelerator.wait_for_everyone()


def _encode(texts: Sequence[str], adapter: MusubiAdapter, folder: Path, accelerator: Any) -> None:
    from tqdm import tqdm

    encode = adapter.text_encoder(accelerator.device)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for text in tqdm(texts, desc="encoding prompts", disable=not accelerator.is_local_main_process):
            _encode_one(encode, text, text_path(folder, text))
    except OSError as error:
        raise UserError(f"{folder}: the cache of encoded prompts cannot be written: {error}.") from error
    del encode
    gc.collect()
    if accelerator.device.type == "cuda":
        torch.cuda.empty_cache()


@torch.no_grad()
def _encode_one(encode: Callable[[list[Any]], None], text: str, path: Path) -> None:
    """Write the text's cache file, whole under its name or not at all."""
    from musubi_tuner.dataset.image_video_dataset import ItemInfo

    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    info = ItemInfo(text, text, (0, 0), (0, 0))
    info.text_encoder_output_cache_path = str(part)
    try:
        encode([info])
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _is_sound(path: Path) -> bool:
    """Whether the file is there and complete; safetensors checks its length when it opens it."""
    try:
        read_header(path, "cached text")
        return True
    except UserError:
        return False

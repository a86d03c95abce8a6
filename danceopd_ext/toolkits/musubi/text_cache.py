"""Writes encoded texts in musubi's own cache format, so that the text encoders are freed before the model loads."""

from __future__ import annotations

import gc
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from danceopd_ext.data.cache_entries import UnusableEntry, add_digest, read_entry
from danceopd_ext.data.fingerprint import fingerprint
from danceopd_ext.data.text_cache import again_notes
from danceopd_ext.errors import UserError, shorten
from danceopd_ext.toolkits.hosted.console import tell
from danceopd_ext.toolkits.musubi.adapter import MusubiAdapter
from danceopd_ext.toolkits.musubi.prompt_data import text_path


def text_folder(adapter: MusubiAdapter, root: Path) -> Path:
    """Return the folder below `root` for these text encoders. Raises UserError if one is not given."""
    files = adapter.text_encoder_files()
    for name, path in files.items():
        if path is None:
            raise UserError(f"{name} is missing: prompts and guidance need the text encoder. Name its file.")
        if not os.path.exists(path):
            raise UserError(f"{name} = {str(path)!r}: there is no such file or folder.")
    options = "-".join(str(getattr(adapter.args, name, "")) for name in adapter.text_options)
    key = fingerprint(files.values())
    return root / "-".join(filter(None, (adapter.trainer.architecture, key, options)))


def encode_texts(texts: Sequence[str], adapter: MusubiAdapter, folder: Path, accelerator: Any) -> None:
    """Encode the texts without a sound cache file, each process its share, and wait for all."""
    share = list(dict.fromkeys(texts))[accelerator.process_index :: accelerator.num_processes]
    missing, notes = missing_of(share, folder)
    for note in notes:
        tell(f"note: {note}")
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
    """Write the text's cache file, completely or not at all."""
    from musubi_tuner.dataset.image_video_dataset import ItemInfo

    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    info = ItemInfo(text, text, (0, 0), (0, 0))
    info.text_encoder_output_cache_path = str(part)
    try:
        encode([info])
        if broken := add_digest(part):
            raise UserError(
                f'the prompt "{shorten(text)}" is encoded to NaN or infinite numbers (in {broken}). The text '
                "encoder's file is damaged, or its precision is too narrow. Download it again, or remove fp8 options."
            )
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def missing_of(texts: Sequence[str], folder: Path) -> tuple[list[str], list[str]]:
    """Return the texts without a usable cache file, and notes on unusable files. Each file is read completely."""
    missing, found = [], Counter()
    for text in texts:
        try:
            read_entry(text_path(folder, text))
        except UnusableEntry as problem:
            found[problem.why] += 1
            missing.append(text)
        except OSError:
            missing.append(text)
    return missing, again_notes(folder, "prompt", found)

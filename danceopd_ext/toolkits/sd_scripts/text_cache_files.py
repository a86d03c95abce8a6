"""Removes damaged .npz files of encoded prompts, so that the toolkit encodes the prompts again.

The format has a checksum for each array. If one differs, the toolkit would fail in the middle of an epoch, and it would
train on NaN.
"""

from __future__ import annotations

import zipfile
from collections import Counter
from pathlib import Path

import numpy as np

from danceopd_ext.data.cache_entries import DAMAGED, NOT_FINITE
from danceopd_ext.data.text_cache import again_notes


def remove_damaged(folder: Path) -> list[str]:
    """Remove the unusable files of a cache folder; return notes for the user. Each file is read completely."""
    found: Counter[str] = Counter()
    for path in sorted(folder.glob("*.npz")):
        if why := _wrong_with(path):
            found[why] += 1
            path.unlink(missing_ok=True)
    return again_notes(folder, "prompt", found)


def _wrong_with(path: Path) -> str:
    """Return why the file cannot be used, or ""."""
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.testzip():
                return DAMAGED
        with np.load(path, allow_pickle=False) as arrays:
            parts = [arrays[name] for name in arrays.files]
    except (zipfile.BadZipFile, OSError, ValueError, EOFError, NotImplementedError, RuntimeError):
        return DAMAGED
    broken = any(not np.isfinite(part).all() for part in parts if part.dtype.kind == "f")
    return NOT_FINITE if broken else ""

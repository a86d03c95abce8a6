"""The toolkit's .npz files of encoded prompts: damaged ones are removed before it reads them, so that it encodes again.

The format has a checksum of each array. The toolkit would end in the middle of an epoch where one differs, and train on
NaN.
"""

from __future__ import annotations

import zipfile
from collections import Counter
from pathlib import Path

import numpy as np

from danceopd_ext.data.cache_entries import DAMAGED, NOT_FINITE
from danceopd_ext.data.text_cache import again_notes


def remove_damaged(folder: Path) -> list[str]:
    """Remove the files of a cache folder that cannot be used; notes for the user. Each file is read whole."""
    found: Counter[str] = Counter()
    for path in sorted(folder.glob("*.npz")):
        if why := _wrong_with(path):
            found[why] += 1
            path.unlink(missing_ok=True)
    return again_notes(folder, "prompt", found)


def _wrong_with(path: Path) -> str:
    """Why the file cannot be used, or nothing."""
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

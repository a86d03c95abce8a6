"""Distinguishes the name of a repository on the Hugging Face Hub from a path that does not exist.

`style/cat` can be both, and a mistyped path is far more common than a repository. So the Hub is queried only for a
possible repository name that does not begin like a folder of the user's, and messages name both possibilities.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from danceopd_ext.errors import nearest, printable, shorten

#: a user or organisation and their repository: letters and digits, with single punctuation marks inside
_NAME = re.compile(r"[A-Za-z0-9_](?:[\w.-]{0,94}\w)?", re.ASCII)
#: file extensions, which no repository name has
_FILES = (".safetensors", ".sft", ".pt", ".pth", ".bin", ".ckpt", ".gguf", ".json", ".toml", ".txt", ".zip")
#: usual names of users' own folders: `loras`, `my_loras`, `sd3_models2`
_FOLDER = re.compile(
    r"(?:[a-z0-9]+_|my[-_]?)*(?:loras?|lycoris|models?|teachers?|outputs?|checkpoints?|ckpts?|weights|adapters?|data"
    r"|datasets?|downloads?|train|training|trained|files|home|mnt|tmp|src)[-_]?\d*"
)


def repository_of(place: str) -> str | None:
    """Return `owner/name` if `place` seems to begin with a repository on the Hub, else None.

    The rest, as in `owner/name/folder/file`, is ignored.
    """
    parts = place.split("/")
    if len(parts) < 2 or not all(_NAME.fullmatch(part) for part in parts[:2]):
        return None
    if any(mark in part for part in parts[:2] for mark in ("--", "..")) or parts[1].lower().endswith(_FILES):
        return None
    return None if _FOLDER.fullmatch(parts[0].lower()) else "/".join(parts[:2])


def no_such_file(place: str | os.PathLike) -> str:
    """Return a message that a file or folder does not exist, with similar names; it begins with the path."""
    path = Path(place)
    told, folder = f"{path}: no such file or folder", path.parent
    try:
        if not os.path.isdir(folder):
            return f"{told}; its folder {folder} does not exist either{_from(path)}. Check the path."
        hint = nearest(path.name, os.listdir(folder))
    except (OSError, ValueError):  # ValueError: a null character in the name
        hint = ""
    return f"{told}{_from(path)}.{hint or ' Check the path.'}"


def _from(path: Path) -> str:
    return "" if path.is_absolute() else f" (the current folder is {Path.cwd()})"


def hub_refusal(error: BaseException, repository: str) -> str:
    """Return why the Hub does not deliver a repository, from the error of its client."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if "GatedRepoError" in kinds:
        return f"{repository} needs a login: accept its terms in a browser, then run `hf auth login`"
    if "RepositoryNotFoundError" in kinds:
        return f"it has no repository {repository}, or a private one that needs `hf auth login`"
    if "OfflineModeIsEnabled" in kinds:
        return "HF_HUB_OFFLINE is set, so the Hub is not queried"
    return shorten(printable((str(error).strip().splitlines() or [type(error).__name__])[0]), 200)

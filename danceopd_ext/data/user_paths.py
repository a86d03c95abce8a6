"""Finds the files that a user names, and cleans up the paths as users write them."""

from __future__ import annotations

import os
from pathlib import Path

PROMPT_SUFFIXES = (".txt", ".csv", ".jsonl")
"""The extensions of prompt files."""


def find_path(path: str | os.PathLike, base: Path | None = None) -> Path:
    """Return `path` unchanged if it exists, otherwise below the folder `base`.

    sd-scripts takes relative paths from the working directory; a path relative to the file that mentions it works too.
    """
    # os.path: an impossible path (too long, an unknown ~user) does not exist, which is reported on opening it
    found = Path(os.path.expanduser(path))
    if base is None or found.is_absolute() or os.path.exists(found) or not os.path.exists(base / found):
        return found
    return base / found


def find_beside(path: str, folder: Path) -> Path:
    """Return `path` below `folder` if that exists, otherwise unchanged if that exists, otherwise below `folder`.

    For pictures that a prompt file names: the file and its pictures belong together, and a file of the same name in the
    working directory is another picture.
    """
    found = Path(os.path.expanduser(path))  # os.path: see find_path
    beside = folder / found
    return found if os.path.exists(found) and not os.path.exists(beside) else beside


def breaks(path: str) -> bool:
    r"""Return whether it contains a line break or a tab: what TOML and JSON make of "C:\new" and "C:\trained"."""
    return any(character in path for character in "\b\t\n\f\r")


def unquoted(text: str) -> str:
    """Return a path without surrounding blanks and the quotes of Explorer's "Copy as path"."""
    text = text.strip()
    return text[1:-1].strip() if len(text) > 1 and text[0] == text[-1] == '"' else text

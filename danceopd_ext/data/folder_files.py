"""Lists the user's files in a data folder, without the files that systems and tools leave there."""

from __future__ import annotations

import re
from pathlib import Path

#: folders of macOS archives, Synology thumbnails, Windows and Python; hidden ones (.ipynb_checkpoints) are skipped too
_FOREIGN_FOLDERS = {"__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found", "__pycache__"}
_FOREIGN_TEXTS = re.compile(
    r"read[ _-]?me.*|licen[sc]es?|copying|change[ _-]?log|requirements|(sample|test|preview)[ _-]?prompts?",
    re.IGNORECASE,
)


def files_of(folder: Path, recursive: bool) -> list[Path]:
    """Return the files of a folder, or of its subfolders too, in an order that does not depend on the platform.

    Hidden files (macOS' `._a.txt`) and those in hidden folders are left out.
    """
    found = folder.rglob("*") if recursive else folder.iterdir()
    files = [file for file in found if _is_own(file.relative_to(folder)) and file.is_file()]
    return sorted(files, key=lambda file: file.relative_to(folder).as_posix())


def _is_own(place: Path) -> bool:
    return not any(part.startswith(".") or part.lower() in _FOREIGN_FOLDERS for part in place.parts)


def is_about_the_folder(file: Path) -> bool:
    """Return whether a text file's name shows that it is not a caption: readme, license, sample_prompts, ..."""
    return _FOREIGN_TEXTS.fullmatch(file.stem) is not None

"""Finds the source images of a caption by their names, as sd-scripts and musubi-tuner do.

Semantics: sd-scripts library/train_util.py, class ControlNetDataset (the same name); musubi-tuner
dataset/datasources.py, class ImageDirectoryDatasource (that name, then name_0, name_1, ... where there are several).
"""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from pathlib import Path

from danceopd_ext.data.folder_files import files_of
from danceopd_ext.data.subset import IMAGE_SUFFIXES, Subset
from danceopd_ext.errors import UserError

_NUMBERED = re.compile(r"^(.*)_(\d+)$", re.DOTALL)


def name_of(file: Path, folder: Path) -> str:
    """Return what pairs a file with another: its place below the folder, without the suffix."""
    return file.relative_to(folder).with_suffix("").as_posix()


def match_sources(subset: Subset, names: Sequence[str], notes: list[str]) -> dict[str, tuple[Path, ...]]:
    """Return the source images of every name (see name_of), in order; none for a subset without a folder of them.

    Raises UserError for a name without a source image, and for two of them that only their suffixes tell apart.
    """
    folder = subset.source_dir
    if folder is None:
        return {}
    found: dict[str, dict[int, Path]] = {name: {} for name in names}
    spare: list[Path] = []
    for file in _images(subset):
        name, place = _owner(name_of(file, folder), found)
        if name is None:
            spare.append(file)
        elif place in found[name]:
            raise UserError(
                f"{subset.where}: {found[name][place].name} and {file.name} in {folder} are both the same source "
                "image. Remove one of them."
            )
        else:
            found[name][place] = file
    for name, places in found.items():
        if not places:
            kinds = f" Images end in {', '.join(IMAGE_SUFFIXES)}." if [*folder.glob(f"{glob.escape(name)}.*")] else ""
            raise UserError(
                f'{subset.where}: there is no source image for "{name}" in {folder}.{kinds} Add one of the same name, '
                f"such as {name}.png, or remove {name} from {subset.image_dir or subset.metadata_file}."
            )
    if spare:
        notes.append(
            f"{subset.where}: {len(spare)} source images do not belong to any caption, the first is {spare[0].name}"
        )
    return {name: tuple(places[place] for place in sorted(places)) for name, places in found.items()}


def _images(subset: Subset) -> list[Path]:
    files = files_of(subset.source_dir, subset.recursive)
    return [file for file in files if file.suffix.lower() in IMAGE_SUFFIXES]


def _owner(name: str, names: dict[str, dict[int, Path]]) -> tuple[str | None, int]:
    """Return whose source image this is and its place: -1 under the name itself, else its number."""
    if name in names:
        return name, -1
    numbered = _NUMBERED.match(name)
    if numbered and numbered[1] in names:
        return numbered[1], int(numbered[2])
    return None, 0

"""Saves the preset of a run, as it was used, beside the run's results."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from danceopd_ext.disk_errors import disk_problem
from danceopd_ext.errors import UserError
from danceopd_ext.files import whole_file
from danceopd_ext.foreign.text import read_text

#: the metadata entry of a LoRA that holds it, with names in place of paths
ENTRY = "ss_danceopd_preset"
#: the first line of such a file, by which a later run knows that it may replace it
HEAD = (
    "# Written by danceopd_ext: the preset of this run as it was used, with the command line's values and all defaults."
)


def record_path(folder: Path, name: str) -> Path:
    """Return `NAME.preset.toml` in output_dir."""
    return folder / f"{name}.preset.toml"


def check_record(folder: Path, name: str) -> None:
    """Raise UserError if a file of this name is there that no run wrote: a preset of the user's own."""
    path = record_path(folder, name)
    if path.is_dir() or (path.is_file() and not _is_ours(path)):
        raise UserError(
            f"{path} already exists and was not written by a run; the run saves its preset under this name. Rename "
            "your file, or choose another output_name."
        )


def _is_ours(path: Path) -> bool:
    try:
        return read_text(path, "preset").startswith(HEAD)
    except UserError:
        return False


def write_record(folder: Path, name: str, text: str, say: Callable[[str], None]) -> None:
    """Write the file; if the disk refuses it, report that and go on."""
    path = record_path(folder, name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as part:
            part.write_text(f"{HEAD}\n\n{text}", encoding="utf-8")
    except OSError as error:
        if (problem := disk_problem(error)) is None:
            raise
        say(f"note: the preset of this run is not saved in {path}: {problem.reason}. {problem.remedy}")

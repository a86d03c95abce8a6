"""Reads the rows of edit data: of local files, or of a dataset on the hub, file by file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from danceopd_ext.data.table_rows import Row, read_rows
from danceopd_ext.errors import UserError, first_line


def rows_of(data: str, hub: Sequence[tuple[str, str]]) -> Iterator[tuple[str, Row, Path]]:
    """Yield (where, row, folder of its pictures) of a local file or folder, or of a hub dataset, file by file."""
    path = Path(data)
    if not hub:
        yield from ((where, row, path if os.path.isdir(path) else path.parent) for where, row in read_rows(path))
    for name, _ in hub:
        file = download(data, name)
        yield from ((where, row, file.parent) for where, row in read_rows(file))


def hub_files(name: str) -> list[tuple[str, str]]:
    """Return the .parquet files of a hub dataset's training split, each with its digest. Raises UserError."""
    from huggingface_hub import HfApi

    try:
        tree = HfApi().list_repo_tree(name, repo_type="dataset", recursive=True)
        files = sorted((entry.path, entry.blob_id) for entry in tree if entry.path.endswith(".parquet"))
    except Exception as error:  # the hub client raises its own, transport and OS errors
        raise UserError(f"{name} is not a file or folder here, and {not_given(error)}.") from None
    if not files:
        raise UserError(f"{name}: the dataset has no .parquet files.")
    return [file for file in files if "train" in file[0]] or files


def download(name: str, file: str) -> Path:
    """Return a file of a hub dataset, downloaded if needed. Raises UserError."""
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(name, file, repo_type="dataset"))
    except Exception as error:
        raise UserError(
            f"{name}/{file}: {not_given(error)}. Start again later: the files that are already there are kept."
        ) from None


def not_given(error: Exception) -> str:
    """Return the reason for which a dataset could not be read from the hub."""
    return f"the hub does not give it ({first_line(error)})"

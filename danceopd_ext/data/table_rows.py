"""Reads the rows of .jsonl and .parquet files, and the pictures in them, in the forms of datasets on the hub."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from danceopd_ext.data.pictures import decoded, read_picture
from danceopd_ext.errors import UserError
from danceopd_ext.foreign.json import parse_lines
from danceopd_ext.foreign.text import read_text

if TYPE_CHECKING:
    from PIL.Image import Image

Row = dict[str, Any]


def read_rows(path: Path) -> Iterator[tuple[str, Row]]:
    """Yield (where, row) of a .jsonl or .parquet file, or of a folder's .parquet files in the order of their names.

    Raises UserError for missing or damaged files. Reading .parquet needs pyarrow.
    """
    if os.path.isdir(path):
        files = sorted(path.rglob("*.parquet"))
        if not files:
            raise UserError(f"{path}: this folder has no .parquet files.")
        for file in files:
            yield from _parquet_rows(file)
    elif path.suffix == ".parquet":
        yield from _parquet_rows(path)
    else:
        yield from _json_rows(path)


def _json_rows(path: Path) -> Iterator[tuple[str, Row]]:
    for where, row in parse_lines(read_text(path, "table"), str(path)):
        if not isinstance(row, dict):
            raise UserError(f"{where}: not a JSON object.")
        yield where, row


def _parquet_rows(path: Path) -> Iterator[tuple[str, Row]]:
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise UserError(f"{path}: reading .parquet needs pyarrow: `pip install pyarrow`.") from None
    count = 0
    try:
        for batch in parquet.ParquetFile(path).iter_batches(batch_size=16):
            for row in batch.to_pylist():
                count += 1
                yield f"{path}, row {count}", row
    except (OSError, ValueError) as error:  # pyarrow's own errors are subclasses of both
        raise UserError(f"{path} cannot be read ({error}): download it again.") from None


def text_of(row: Mapping[str, Any], name: str, where: str) -> str:
    """Return a field that must be text. Raises UserError."""
    value = row.get(name)
    if value is not None and not isinstance(value, str):
        raise UserError(f'{where}: "{name}" is {value!r}, which is not text. Write it in quotes.')
    if not (value and value.strip()):
        raise UserError(f'{where}: "{name}" is missing.')
    return value


def picture_of(row: Mapping[str, Any], name: str, folder: Path, where: str) -> bytes:
    """Return a field's picture, still encoded, after decoding it once as a check (see encoded_of). Raises UserError."""
    data = encoded_of(row, name, folder, where)
    rgb_of(data, name, where)
    return data


def encoded_of(row: Mapping[str, Any], name: str, folder: Path, where: str) -> bytes:
    """Return a field's picture, still encoded, from bytes, {"bytes": ..., "path": ...}, or a file name below `folder`.

    Nothing is decoded. Raises UserError if it is missing or of another type.
    """
    value = row.get(name)
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, str):
        try:
            value = read_picture(folder / value)
        except UserError as error:
            raise UserError(f'{where}: "{name}": {error}') from None
    if not isinstance(value, bytes):
        raise UserError(f'{where}: "{name}" is not a picture: expected its bytes, or the name of its file.')
    return value


def rgb_of(data: bytes, name: str, where: str) -> Image:
    """Return the whole picture of a field as RGB; the header alone does not show missing pixels. Raises UserError.

    An EXIF rotation is ignored, as everywhere here.
    """
    return decoded(data, f'{where}: "{name}" is not a picture that can be read')

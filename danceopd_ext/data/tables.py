"""Rows of .jsonl and .parquet files, and the pictures in them, as datasets on the hub come."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from ..errors import UserError

Row = dict[str, Any]


def read_rows(path: Path) -> Iterator[tuple[str, Row]]:
    """(where it stands, row) of a .jsonl or .parquet file, or of a folder's .parquet files in the order of their names.

    Raises UserError for what is missing or damaged. Reading .parquet needs pyarrow.
    """
    if path.is_dir():
        files = sorted(path.rglob("*.parquet"))
        if not files:
            raise UserError(f"{path}: there is no .parquet file in this folder.")
        for file in files:
            yield from _parquet_rows(file)
    elif path.suffix == ".parquet":
        yield from _parquet_rows(path)
    else:
        yield from _json_rows(path)


def _json_rows(path: Path) -> Iterator[tuple[str, Row]]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as text: {error}.") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"{path}, line {number}: not JSON ({error}).") from None
        if not isinstance(row, dict):
            raise UserError(f"{path}, line {number}: not a JSON object.")
        yield f"{path}, line {number}", row


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
    except (OSError, ValueError) as error:  # pyarrow's own errors are both
        raise UserError(f"{path} cannot be read ({error}): download it again.") from None


def text_of(row: Mapping[str, Any], name: str, where: str) -> str:
    """A field that must hold text. Raises UserError."""
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise UserError(f'{where}: "{name}" is missing.')
    return value


def picture_of(row: Mapping[str, Any], name: str, folder: Path, where: str) -> bytes:
    """A field's picture, still encoded: bytes, {"bytes": ..., "path": ...}, or a file name below `folder`.

    Raises UserError where it is missing or cannot be read.
    """
    value = row.get(name)
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, str):
        file = folder / value
        if not file.is_file():
            raise UserError(f'{where}: the picture {file} ("{name}") does not exist.')
        value = file.read_bytes()
    try:
        Image.open(io.BytesIO(value)).verify()
    except (UnidentifiedImageError, OSError, TypeError, SyntaxError):
        raise UserError(f'{where}: "{name}" is not a picture that can be read.') from None
    return value

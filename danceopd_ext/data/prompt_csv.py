"""Reads the rows of a .csv prompt file, in the forms that spreadsheet programs of all countries write."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from danceopd_ext.data.column_names import KNOWN
from danceopd_ext.errors import UserError
from danceopd_ext.foreign.csv import parse_csv

DELIMITERS = ",;\t|"
#: Excel's first line that names the delimiter; after another save it may be quoted or followed by empty fields
_SEP = re.compile(r'"?sep=(.)"?[,;\t|]*', re.IGNORECASE)


def csv_rows(path: Path, text: str) -> Iterator[tuple[str, dict[str, str | None]]]:
    """Yield (where, fields by column) of each row; column names are in lower case, without surrounding blanks.

    The delimiter is the one in a first line `sep=;`, else the one that separates the column `prompt`. Columns without a
    name are left out; the missing fields of a short row are None. Raises UserError for a file without the column
    `prompt` or with a column twice, and for a row with more fields than columns.
    """
    lines = text.split("\n")
    first = next((number for number, line in enumerate(lines) if line.strip()), None)
    if first is None:
        return
    named = _SEP.fullmatch(lines[first].strip(" "))
    if named:
        first += 1
    body = "\n".join(lines[first:])
    delimiter = named[1] if named else _delimiter(body.lstrip("\n").split("\n", 1)[0])
    rows = parse_csv(body, str(path), delimiter, first + 1)
    columns = _columns(path, next((row for _, row in rows if any(map(str.strip, row))), []))
    for number, row in rows:
        where = f"{path}, line {number}"
        if any(field.strip() for field in row[len(columns) :]):
            raise UserError(f"{where}: more fields than columns. Put quotes around a prompt that contains a comma.")
        fields = [*row, *[None] * (len(columns) - len(row))]
        yield where, {name: field for name, field in zip(columns, fields, strict=False) if name}


def _columns(path: Path, header: list[str]) -> list[str]:
    columns = [name.strip().lower() for name in header]
    while columns and not columns[-1]:
        del columns[-1]
    if "prompt" not in columns:
        raise UserError(f'{path}: the column "prompt" is missing. The columns are: {", ".join(columns)}.')
    twice = [name for name in columns if KNOWN.fullmatch(name) and columns.count(name) > 1]
    if twice:
        raise UserError(f'{path}: {columns.count(twice[0])} columns are called "{twice[0]}". Keep only one of them.')
    return columns


def _delimiter(header: str) -> str:
    """Return the character that separates the column `prompt`; in many countries spreadsheets write a semicolon."""
    for delimiter in DELIMITERS:
        names = [name.strip().strip('"').strip().lower() for name in header.split(delimiter)]
        if "prompt" in names:
            return delimiter
    return ","

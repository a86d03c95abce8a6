"""Reads tables of comma-separated values, by any delimiter."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from danceopd_ext.errors import UserError
from danceopd_ext.foreign.text import read_text

#: the most characters of one field; prompts and captions have a few thousand
LONGEST_FIELD = 100_000


def parse_csv(text: str, where: str, delimiter: str = ",", first: int = 1) -> Iterator[tuple[int, list[str]]]:
    """Yield (number of the line that it ends on, fields) of each row that is not blank.

    `first` is the number of the text's first line in the file. Raises UserError, which names file and line, for what is
    not CSV, above all a missing closing quote, and for a field of more than LONGEST_FIELD characters.
    """
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    except (TypeError, ValueError):
        raise UserError(f"{where}: {delimiter!r} cannot separate the columns of a table. Use a comma.") from None
    while True:
        try:
            row = next(reader, None)
        except csv.Error as error:  # its own limit of a field is 131,072 characters
            place = f"{where}, line {first - 1 + reader.line_num}"
            raise UserError(f"{place}: not valid CSV: {error}. Is a closing quote missing?") from None
        if row is None:
            return
        number = first - 1 + reader.line_num
        if any(len(field) > LONGEST_FIELD for field in row):
            raise UserError(
                f"{where}, line {number}: a field has more than {LONGEST_FIELD:,} characters. Is a closing quote "
                "missing?"
            )
        if row:
            yield number, row


def read_csv(path: Path, what: str = "table") -> list[dict[str, str]]:
    """Return the rows of a .csv file by the names of its columns, which its first row gives.

    Raises UserError for what `read_text` and `parse_csv` refuse, and for a row with more or fewer fields than columns.
    """
    rows = parse_csv(read_text(path, what), str(path))
    _, columns = next(rows, (0, []))
    found = []
    for number, row in rows:
        if len(row) != len(columns):
            raise UserError(f"{path}, line {number}: {len(row)} fields, but the table has {len(columns)} columns.")
        found.append(dict(zip(columns, row, strict=True)))
    return found

"""Checks the column names of a .csv prompt file and the keys of a .jsonl one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from danceopd_ext.errors import UserError

KNOWN = re.compile(r"prompt|width|height|target|source(_\d+)?")
#: other programs' names for the column of the source image, and misspellings
MEANT = re.compile(r"(sources?|src|control|conditioning)([ _-]?[a-z])*(_\d+)?")


class Names:
    """Collects the names in a file's rows, to report unknown ones and those that should be `source`."""

    def __init__(self, path: Path):
        self.path = path
        self.table = path.suffix.lower() == ".csv"
        self.kind = "column" if self.table else "key"
        self.names: set[str] = set()

    def add(self, record: Mapping[str, object], where: str) -> None:
        """Note a row. Raises UserError if its source image stands under another name, or the row ends before it."""
        known = [name for name in record if KNOWN.fullmatch(name)]
        sources = [name for name in known if name.startswith("source")]
        meant = next((name for name in record if MEANT.fullmatch(name)), None)
        if meant and not sources:
            raise UserError(
                f'{where}: unknown {self.kind} "{meant}". If it is the source image of an edit, call it "source"; '
                "otherwise "
                "remove it."
            )
        cut = [name for name in (*sources, "target") if self.table and record.get(name, "") is None]
        if cut:
            raise UserError(f"{where}: fewer fields than columns. If a row has no {cut[0]}, leave its field empty.")
        self.names.update(record)

    def notes(self) -> list[str]:
        """Return notes on the whole file."""
        unknown = sorted(name for name in self.names if not KNOWN.fullmatch(name))
        return [f"{self.path}: ignored: {', '.join(unknown)}"] if unknown else []

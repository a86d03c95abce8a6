"""Prompt files (.txt, .csv, .jsonl) become items: the data of a text-to-image route without any image."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError
from .items import CaptionRules, Item, Size
from .targets import Target
from .textfiles import find_path, read_text

# A flag of sd-scripts' sample prompts: " --w 1024". A word must follow the dashes at once, so that "a -- b" is text.
_FLAG = re.compile(r"(?:^|\s)--([A-Za-z]\w*)")


@dataclass(frozen=True)
class _Row:
    """One prompt; `where` is its place in the file. A side that is None comes from the resolution."""

    text: str
    width: int | None
    height: int | None
    where: str
    target: str = ""


def read_prompts(
    path: str | os.PathLike,
    resolutions: Sequence[Size],
    rules: CaptionRules | None = None,
) -> tuple[list[Item], list[str]]:
    """Return the items of a prompt file in the order of the file, and notes for the user.

    .txt has a prompt a line (blank lines and lines that begin with # are skipped; `--w` and `--h` set the size, other
    flags are cut off); .csv has a column `prompt`, .jsonl a key `prompt`, both with optional width and height, and an
    optional `target`: the picture that the prompt describes (its path from the working directory or from the file's
    folder), which is not opened here. Every prompt is used with each of `resolutions` (pixels) unless it has a size of
    its own. Line breaks inside a prompt become blanks. Raises UserError for a missing, empty or malformed file.
    """
    path = Path(path)
    readers = {".txt": _read_txt, ".csv": _read_csv, ".jsonl": _read_jsonl}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise UserError(f'{path}: prompt files are .txt, .csv or .jsonl, not "{path.suffix}".')
    notes: list[str] = []
    items: list[Item] = []
    for row in reader(path, read_text(path, "prompt file"), notes):
        sizes = dict.fromkeys((row.width or width, row.height or height) for width, height in resolutions)
        target = Target(find_path(row.target, path.parent)) if row.target else None
        items += [Item(row.text, *size, rules or CaptionRules(), source=row.where, target=target) for size in sizes]
    if not items:
        raise UserError(f"{path}: the prompt file is empty. Write one prompt a line.")
    return items, notes


def _read_txt(path: Path, text: str, notes: list[str]) -> Iterator[_Row]:
    ignored: Counter[str] = Counter()
    for number, line in enumerate(text.split("\n"), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        where = f"{path}, line {number}"
        prompt, *flags = _FLAG.split(line)
        values = dict(zip(flags[::2], flags[1::2], strict=True))
        width, height = (_side(values.pop(flag, None), where, f"--{flag}") for flag in ("w", "h"))
        ignored.update(values.keys())
        if not prompt.strip():
            raise UserError(f"{where}: there are flags but no prompt.")
        yield _Row(prompt.strip(), width, height, where)
    if ignored:
        flags = ", ".join(f"--{flag} ({count} lines)" for flag, count in sorted(ignored.items()))
        notes.append(f"{path}: ignored: {flags}")


def _read_csv(path: Path, text: str, notes: list[str]) -> Iterator[_Row]:
    if not text.strip():
        return
    delimiter = _delimiter(text.lstrip("\n").split("\n", 1)[0])
    reader = csv.DictReader(io.StringIO(text.lstrip("\n"), newline=""), delimiter=delimiter)
    columns = [(name or "").strip().lower() for name in reader.fieldnames or []]
    if "prompt" not in columns:
        raise UserError(f'{path}: there is no column "prompt". Its columns are: {", ".join(columns)}.')
    reader.fieldnames = columns
    try:
        for record in reader:
            where = f"{path}, line {reader.line_num}"
            if None in record:
                raise UserError(f"{where}: more fields than columns. Put quotes around a prompt with a comma in it.")
            prompt = _one_line(record["prompt"] or "")
            if prompt:
                width, height = (_side(record.get(side), where, side) for side in ("width", "height"))
                yield _Row(prompt, width, height, where, (record.get("target") or "").strip())
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: not valid CSV: {error}.") from None


def _delimiter(header: str) -> str:
    """Return the character that sets off the column `prompt`; spreadsheets in many countries write a semicolon."""
    for delimiter in ",;\t":
        names = [name.strip().strip('"').lower() for name in header.split(delimiter)]
        if "prompt" in names:
            return delimiter
    return ","


def _read_jsonl(path: Path, text: str, notes: list[str]) -> Iterator[_Row]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{where}: not valid JSON: {error}. Every line is one object.") from None
        if not isinstance(record, dict):
            raise UserError(f'{where}: expected an object such as {{"prompt": "a cat"}}.')
        if not isinstance(record.get("prompt"), str):
            raise UserError(f'{where}: there is no text under "prompt". Its keys are: {", ".join(record)}.')
        prompt = _one_line(record["prompt"])
        if prompt:
            width, height = (_side(record.get(side), where, side) for side in ("width", "height"))
            target = record.get("target") or ""
            if not isinstance(target, str):
                raise UserError(f"{where}: target = {target!r} is wrong: expected the path of a picture.")
            yield _Row(prompt, width, height, where, target.strip())


def _one_line(text: str) -> str:
    return " ".join(line.strip() for line in text.splitlines() if line.strip())


def _side(value: object, where: str, name: str) -> int | None:
    """Return a width or height in pixels, or None where it is not given."""
    text = "" if value is None else str(value).strip()
    if value is None or (not text and not name.startswith("--")):
        return None
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f'{where}: {name} = "{text}" is wrong: expected a number of pixels.')
    return int(text)

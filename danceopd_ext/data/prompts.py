"""Prompt files (.txt, .csv, .jsonl) become items: the data of a route without a dataset, edits included."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError
from .buckets import around
from .items import CaptionRules, Item, Size
from .row_names import Names
from .sources import path_of_row, sources_of_row
from .subset import image_size
from .targets import Target
from .textfiles import PROMPT_SUFFIXES, backslash_hint, find_beside, read_text, unquoted

# A flag of sd-scripts' sample prompts: " --w 1024". A word must follow the dashes at once, so that "a -- b" is text.
_FLAG = re.compile(r"(?:^|\s)--([A-Za-z]\w*)")

SOURCE_FLAGS = ("ci", "cn")
"""What a source image is called in a prompt's line: by musubi-tuner (more than once for several), by sd-scripts."""


@dataclass(frozen=True)
class _Row:
    """One prompt; `where` is its place in the file. A side that is None comes from the resolution."""

    text: str
    width: int | None
    height: int | None
    where: str
    target: str = ""
    sources: tuple[str, ...] = ()


def read_prompts(
    path: str | os.PathLike,
    resolutions: Sequence[Size],
    rules: CaptionRules | None = None,
    multiple: int | None = None,
) -> tuple[list[Item], list[str]]:
    """Return the items of a prompt file in the order of the file, and notes for the user.

    .txt has a prompt a line (blank lines and lines that begin with # are skipped; `--w` and `--h` set the size, `--ci`
    names a source image, other flags are cut off); .csv has a column `prompt`, .jsonl a key `prompt`, both with
    optional width and height, and optional paths of pictures (from the file's folder, or else from the working
    directory): `target`, which the prompt describes and which is not opened here, and `source` (see
    sources.sources_of_row), which makes an edit of it. Line breaks inside a prompt become blanks.

    Every prompt is used with each of `resolutions` (pixels) unless it has a size of its own. An edit takes the
    proportions of its first source image, at about the area of the resolution and with sides that are multiples of
    `multiple`. Raises UserError for a missing, empty or malformed file, and for a source image if `multiple` is None.
    """
    path = Path(path)
    readers = dict(zip(PROMPT_SUFFIXES, (_read_txt, _read_csv, _read_jsonl), strict=True))
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise UserError(f'{path}: prompt files are .txt, .csv or .jsonl, not "{path.suffix}".')
    notes: list[str] = []
    items: list[Item] = []
    rows = list(reader(path, read_text(path, "prompt file"), notes))
    if 0 < (edits := sum(bool(row.sources) for row in rows)) < len(rows):
        notes.append(f"{path}: {edits} of {len(rows)} prompts have a source image; the others draw from text")
    for row in rows:
        target = Target(find_beside(row.target, path.parent)) if row.target else None
        sources = tuple(find_beside(source, path.parent) for source in row.sources)
        items += [
            Item(row.text, *size, rules or CaptionRules(), source=row.where, target=target, source_images=sources)
            for size in _sizes(row, resolutions, sources, multiple)
        ]
    if not items:
        raise UserError(f"{path}: the prompt file is empty. Write one prompt a line.")
    return items, notes


def _sizes(row: _Row, resolutions: Sequence[Size], sources: Sequence[Path], multiple: int | None) -> Iterable[Size]:
    if sources and multiple is None:
        raise UserError(
            f'{row.where}: source images are read from prompt files with toolkit = "native" only. Put them into the '
            "dataset_config of your toolkit, or leave them out."
        )
    if sources and not (row.width or row.height):
        image = size_of_source(sources[0], row.where)
        return dict.fromkeys(around(resolution, multiple).select(image) for resolution in resolutions)
    return dict.fromkeys((row.width or width, row.height or height) for width, height in resolutions)


def size_of_source(path: Path, where: str) -> Size:
    """Width and height of a source image. Raises UserError, which begins with `where`."""
    try:
        return image_size(path)
    except UserError as error:
        raise UserError(f"{where}: its source image {error}") from None


def _read_txt(path: Path, text: str, notes: list[str]) -> Iterator[_Row]:
    ignored: Counter[str] = Counter()
    for number, line in enumerate(text.split("\n"), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        where = f"{path}, line {number}"
        prompt, *flags = _FLAG.split(line)
        pairs = list(zip(flags[::2], flags[1::2], strict=True))
        sources = tuple(unquoted(value) for flag, value in pairs if flag in SOURCE_FLAGS)
        values = {flag: value for flag, value in pairs if flag not in SOURCE_FLAGS}
        width, height = (_side(values.pop(flag, None), where, f"--{flag}") for flag in ("w", "h"))
        ignored.update(values.keys())
        if not prompt.strip():
            raise UserError(f"{where}: there are flags but no prompt.")
        if not all(sources):
            raise UserError(f"{where}: --ci names no source image.")
        yield _Row(prompt.strip(), width, height, where, sources=sources)
    if ignored:
        flags = ", ".join(f"--{flag} ({count} lines)" for flag, count in sorted(ignored.items()))
        notes.append(f"{path}: ignored: {flags}")


def _read_csv(path: Path, text: str, notes: list[str]) -> Iterator[_Row]:
    if not text.strip():
        return
    names = Names(path)
    delimiter = _delimiter(text.lstrip("\n").split("\n", 1)[0])
    reader = csv.DictReader(io.StringIO(text.lstrip("\n"), newline=""), delimiter=delimiter, strict=True)
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
                names.add(record, where)
                width, height = (_side(record.get(side), where, side) for side in ("width", "height"))
                sources = sources_of_row(record, where)
                target = path_of_row(record.get("target"), "target", where)
                yield _Row(prompt, width, height, where, target, sources)
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: not valid CSV: {error}. Is a quote not closed?") from None
    notes += names.notes()


def _delimiter(header: str) -> str:
    """Return the character that sets off the column `prompt`; spreadsheets in many countries write a semicolon."""
    for delimiter in ",;\t":
        names = [name.strip().strip('"').lower() for name in header.split(delimiter)]
        if "prompt" in names:
            return delimiter
    return ","


def _read_jsonl(path: Path, text: str, notes: list[str]) -> Iterator[_Row]:
    names = Names(path)
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            remedy = backslash_hint(error) or " Every line is one object."
            raise UserError(f"{where}: not valid JSON: {error}.{remedy}") from None
        if not isinstance(record, dict):
            raise UserError(f'{where}: expected an object such as {{"prompt": "a cat"}}.')
        record = {name.strip().lower(): value for name, value in record.items()}
        if not isinstance(record.get("prompt"), str):
            raise UserError(f'{where}: there is no text under "prompt". Its keys are: {", ".join(record)}.')
        prompt = _one_line(record["prompt"])
        if prompt:
            names.add(record, where)
            width, height = (_side(record.get(side), where, side) for side in ("width", "height"))
            target = path_of_row(record.get("target"), "target", where)
            yield _Row(prompt, width, height, where, target, sources_of_row(record, where))
    notes += names.notes()


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

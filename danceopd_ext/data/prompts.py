"""Reads prompt files (.txt, .csv, .jsonl) as items: the data of a route without a dataset, edits included."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from danceopd_ext.data.buckets import around
from danceopd_ext.data.column_names import Names
from danceopd_ext.data.items import CaptionRules, Item, Size
from danceopd_ext.data.pictures import ItemPicture
from danceopd_ext.data.prompt_csv import csv_rows
from danceopd_ext.data.prompt_entries import FLAGS, Entry, Unused, one_line, read_lines
from danceopd_ext.data.source_images import path_of_row, sources_of_row
from danceopd_ext.data.subset import image_size
from danceopd_ext.data.ui_syntax import settings_lines, settings_note, syntax_notes
from danceopd_ext.data.user_paths import PROMPT_SUFFIXES, find_beside, unquoted
from danceopd_ext.errors import UserError, readable
from danceopd_ext.foreign.json import parse_lines
from danceopd_ext.foreign.text import read_text
from danceopd_ext.ranges import PIXELS

ONLY_DRAWN = dict.fromkeys(("negative_prompt", "seed", "sample_steps", "scale"), "for sample_prompts only")
"""Settings of sample prompts that a prompt for training cannot have."""


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

    .txt has one prompt per line (blank lines and lines that begin with # are skipped; `--w` and `--h` set the size,
    `--ci` names a source image, other flags are cut off); .csv has a column `prompt`, .jsonl a key `prompt`, both with
    optional width and height, and optional paths of pictures (from the file's folder, or else from the working
    directory): `target`, which the prompt describes and which is not opened here, and `source` (see
    source_images.sources_of_row), which makes an edit of it. Line breaks inside a prompt become blanks.

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
        picture = ItemPicture(find_beside(row.target, path.parent)) if row.target else None
        sources = tuple(find_beside(source, path.parent) for source in row.sources)
        items += [
            Item(row.text, *size, rules or CaptionRules(), where=row.where, picture=picture, source_images=sources)
            for size in _sizes(row, resolutions, sources, multiple)
        ]
    if not items:
        raise UserError(f"{path}: the prompt file is empty. Write one prompt per line.{_only(notes)}")
    wildcards = bool(rules and rules.enable_wildcard)
    notes += syntax_notes(str(path), ((row.where.rpartition(", ")[2], row.text) for row in rows), wildcards)
    return items, [readable(note) for note in notes]


def _only(notes: list[str]) -> str:
    """Return a sentence on what the file contains instead of prompts."""
    return f" {notes[0]}." if notes else ""


def _sizes(row: _Row, resolutions: Sequence[Size], sources: Sequence[Path], multiple: int | None) -> Iterable[Size]:
    if sources and multiple is None:
        raise UserError(
            f'{row.where}: only toolkit = "native" reads source images from prompt files. Put them into the '
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
    entries, pasted = read_lines(text)
    notes += settings_note(str(path), pasted)
    unused = Unused()
    for entry in entries:
        where = f"{path}, {entry.place}"
        unused.add(entry, ("width", "height", "source"))
        width, height = (_side_of(entry, side, where) for side in ("width", "height"))
        sources = tuple(unquoted(str(setting.value)) for setting in entry.all_of("source"))
        if not entry.prompt:
            raise UserError(f"{where}: the line has flags but no prompt. Write the prompt before them.")
        if not all(sources):
            raise UserError(f"{where}: --ci needs the path of a source image.")
        yield _Row(entry.prompt, width, height, where, sources=sources)
    notes += unused.notes(str(path), dict.fromkeys(FLAGS.values(), "") | ONLY_DRAWN)


def _read_csv(path: Path, text: str, notes: list[str]) -> Iterator[_Row]:
    return _rows_of_records(path, csv_rows(path, text), notes)


def _read_jsonl(path: Path, text: str, notes: list[str]) -> Iterator[_Row]:
    return _rows_of_records(path, _jsonl_records(path, text), notes)


def _jsonl_records(path: Path, text: str) -> Iterator[tuple[str, dict[str, object]]]:
    for where, record in parse_lines(text, str(path), "Every line is one object."):
        if not isinstance(record, dict):
            raise UserError(f'{where}: expected an object such as {{"prompt": "a cat"}}.')
        record = {name.strip().lower(): value for name, value in record.items()}
        if not isinstance(record.get("prompt"), str):
            raise UserError(f'{where}: "prompt" is missing or is not text. The keys are: {", ".join(record)}.')
        yield where, record


def _rows_of_records(
    path: Path, records: Iterable[tuple[str, Mapping[str, object]]], notes: list[str]
) -> Iterator[_Row]:
    names, pasted = Names(path), []
    for where, record in records:
        lines = str(record["prompt"] or "").splitlines()
        settings = settings_lines(lines)
        pasted += [where.rpartition(", ")[2]] if settings else []
        prompt = one_line("\n".join(line for number, line in enumerate(lines) if number not in settings))
        if prompt:
            names.add(record, where)
            width, height = (_side(record.get(side), where, side) for side in ("width", "height"))
            target = path_of_row(record.get("target"), "target", where)
            yield _Row(prompt, width, height, where, target, sources_of_row(record, where))
    notes += [*settings_note(str(path), pasted), *names.notes()]


def _side_of(entry: Entry, key: str, where: str) -> int | None:
    setting = entry.last_of(key)
    return _side(setting.value, where, setting.written) if setting else None


def _side(value: object, where: str, name: str) -> int | None:
    """Return a width or height in pixels, or None where it is not given."""
    text = "" if value is None else str(value).strip()
    if value is None or (not text and not name.startswith("--")):
        return None
    whole = re.fullmatch(r"0*([1-9][0-9]{0,5})(\.0*)?", text)  # spreadsheets and pandas write 1024.0
    if not whole:
        raise UserError(f'{where}: {name} = "{text}" is wrong: expected a number of pixels.')
    if wrong := PIXELS.wrong(int(whole[1])):
        raise UserError(f"{where}: {name} = {text}: {wrong}.")
    return int(whole[1])

"""Reads a subset's `metadata_file` (the fine-tuning style of sd-scripts) as items.

Semantics: sd-scripts library/train_util.py, class FineTuningDataset: .json maps an image to {caption, tags,
image_size}; .jsonl has one {image_path, caption, tags, image_size} a line. `train_resolution`, written by the older
preparation scripts, is the bucket itself.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from danceopd_ext.data.captions import unused_lines_note
from danceopd_ext.data.items import Item, Size
from danceopd_ext.data.source_folder import match_sources
from danceopd_ext.data.subset import IMAGE_SUFFIXES, Sized, Subset, image_size
from danceopd_ext.data.ui_syntax import syntax_notes
from danceopd_ext.errors import UserError
from danceopd_ext.foreign.json import parse_lines, read_json
from danceopd_ext.foreign.text import read_text
from danceopd_ext.ranges import PIXELS, written


def read_metadata(subset: Subset, notes: list[str]) -> list[Item]:
    """Return the items of a subset's metadata file, in the order of the file.

    The size comes from train_resolution, else image_size, else the header of the image or of its source image, else the
    dataset's resolution. An entry with neither caption nor tags is left out, with a note.
    """
    file = subset.metadata_file
    entries = [(key, entry, where, _text(entry, subset, where)) for key, entry, where in _entries(file)]
    told = [entry for entry in entries if entry[-1]]
    _check_apart([key for key, *_ in told], subset)
    sources = match_sources(subset, [_source_name(key, subset) for key, *_ in told], notes)
    items: list[Item] = []
    for key, entry, where, text in told:
        image, images = _find_image(key, subset), sources.get(_source_name(key, subset), ())
        shown = next(iter([image] if image else images), None)
        items += subset.items(text, _sizes(entry, shown, subset, where), where, image, images)
    if not items:
        raise UserError(f"{file}: no entry with a caption or tags.")
    if not subset.rules.enable_wildcard:
        notes += unused_lines_note(str(file), [key for key, _, _, text in told if "\n" in text])
    notes += syntax_notes(str(file), ((key, text) for key, _, _, text in told), subset.rules.enable_wildcard)
    if len(told) < len(entries):
        notes.append(f"{file}: {len(entries) - len(told)} entries have neither caption nor tags and are left out")
    return items


def _entries(file: Path):
    """Yield (image, entry, source) of every entry of a .json or .jsonl metadata file."""
    if file.suffix.lower() != ".jsonl":
        table = read_json(file, "metadata file")
        if not isinstance(table, dict):
            raise UserError(f'{file}: expected {{"image.png": {{"caption": "..."}}, ...}}.')
        found = [(key, entry, f'{file}, "{key}"') for key, entry in table.items()]
    else:
        rows = parse_lines(read_text(file, "metadata file"), str(file))
        found = [(row.get("image_path") if isinstance(row, dict) else None, row, where) for where, row in rows]
    for key, entry, where in found:
        if not isinstance(entry, dict) or not isinstance(key, str):
            raise UserError(f"{where}: expected an object with a caption and the image that it belongs to.")
        if Path(key).name in ("", ".."):
            raise UserError(f'{where}: "{key}" is not the name of an image. Correct it, or remove the entry.')
        if control := next((name for name in entry if name.startswith("control_path")), None):
            raise UserError(
                f"{where}: {control} is not used here: source images are found by name in the subset's "
                "conditioning_data_dir. Set that, and remove the key."
            )
        yield key, entry, where


def _text(entry: dict, subset: Subset, where: str) -> str:
    """Join caption and tags; with wildcards the tags follow every line of the caption."""
    caption, tags = entry.get("caption") or "", entry.get("tags") or ""
    if not isinstance(caption, str) or not isinstance(tags, str):
        raise UserError(f"{where}: caption and tags must be strings.")
    separator = subset.rules.caption_separator
    if not subset.rules.enable_wildcard:
        return separator.join(part for part in (caption, tags) if part)
    tags = tags.replace("\n", separator)
    lines = [line for line in caption.split("\n") if line.strip()] or [""]
    return "\n".join(separator.join(part for part in (line, tags) if part) for line in lines)


def _sizes(entry: dict, image: Path | None, subset: Subset, where: str) -> Sized:
    trained = _pair(entry, "train_resolution", where)
    if trained is not None:
        return {trained: None}
    size = _pair(entry, "image_size", where)
    if size is None and image is not None:
        size = image_size(image)
    return subset.bucket_sizes(size, where)


def _pair(entry: dict, key: str, where: str) -> Size | None:
    value = entry.get(key)
    if value is None:
        return None
    good = isinstance(value, list) and len(value) == 2 and all(type(side) is int and side > 0 for side in value)
    if not good:
        raise UserError(f"{where}: {key} = {written(value)} is wrong: expected [width, height] in pixels.")
    if wrong := PIXELS.wrong(max(value)):
        raise UserError(f"{where}: {key} = {written(value)}: a side in pixels {wrong}.")
    return value[0], value[1]


def _source_name(key: str, subset: Subset) -> str:
    """Return the name of this entry's source image, without its suffix."""
    path = Path(key)
    if path.suffix.lower() in IMAGE_SUFFIXES:
        path = path.with_suffix("")
    return path.as_posix() if subset.recursive and not path.is_absolute() else path.name


def _check_apart(keys: Sequence[str], subset: Subset) -> None:
    """Raise UserError for two images that would get the same source image: one of them would be another's edit."""
    if subset.source_dir is None:
        return
    owners: dict[str, str] = {}
    for key in keys:
        name = _source_name(key, subset)
        other = owners.setdefault(name, key)
        if other != key:
            deeper = replace(subset, recursive=True)
            wanted, apart = _source_name(key, deeper), _source_name(key, deeper) != _source_name(other, deeper)
            remedy = f"Set recursive = true and put them into subfolders ({wanted}.png)" if apart else "Rename one"
            raise UserError(
                f'{subset.metadata_file}: "{other}" and "{key}" have the same source image, {name}, in '
                f"{subset.source_dir}. {remedy}, or remove one from the file."
            )


def _find_image(key: str, subset: Subset) -> Path | None:
    """Return the image file of an entry, if it exists; older metadata files name it without its extension."""
    path = Path(key)
    if not path.is_absolute() and subset.image_dir is not None:
        path = subset.image_dir / path
    candidates = (path, *(path.with_name(path.name + suffix) for suffix in IMAGE_SUFFIXES))
    return next((file for file in candidates if os.path.isfile(file)), None)  # Path.is_file raises for long names

"""Reads a kohya dataset configuration (`--dataset_config`) as items that belong to routes.

Semantics: sd-scripts library/config_util.py. A key is looked up in the subset, then in its dataset, then in [general],
then in the preset; `custom_attributes` is taken whole from the innermost level that has it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from danceopd_ext.data.buckets import BucketRules
from danceopd_ext.data.caption_folder import read_caption_folder
from danceopd_ext.data.dataset_schema import (
    MAY_BE_EMPTY,
    RULE_KEYS,
    SOURCE_KEYS,
    check_defaults,
    check_table,
    check_top,
)
from danceopd_ext.data.foreign_config import whose, whose_list, whose_text
from danceopd_ext.data.items import CaptionRules, Item
from danceopd_ext.data.metadata_file import read_metadata
from danceopd_ext.data.resolutions import parse_resolution
from danceopd_ext.data.subset import Subset
from danceopd_ext.data.user_paths import find_path
from danceopd_ext.errors import UserError, few, nearest
from danceopd_ext.foreign.json import parse_json
from danceopd_ext.foreign.text import read_text
from danceopd_ext.foreign.toml import parse_toml


def read_dataset_config(
    path: str | os.PathLike,
    teachers: Sequence[str],
    defaults: Mapping[str, object] | None = None,
) -> tuple[dict[str, list[Item]], list[str]]:
    """Read a dataset configuration (.toml, or .json) and return items by route, and notes for the user.

    `teachers` are the routes that exist. `defaults` holds keys of the preset under their dataset names (resolution,
    batch_size, enable_bucket, shuffle_caption, ...), which apply if the file does not set them. Only routes that have
    items are in the result. Raises UserError for all mistakes in the file and in the files that it names.
    """
    path = Path(path)
    defaults = defaults or {}
    check_defaults(defaults)
    config = _without_empty(_parse(path))
    notes: list[str] = []
    routes: dict[str, list[Item]] = {}
    seen: set[tuple] = set()
    for subset in _subsets(config, path, teachers, defaults, notes):
        identity = (subset.dataset, subset.route, subset.image_dir, subset.metadata_file, subset.source_dir)
        if subset.repeats < 1:
            notes.append(f"{subset.where}: left out because num_repeats is 0")
        elif identity in seen:
            notes.append(f"{subset.where}: left out because it repeats an earlier subset of the same dataset")
        else:
            seen.add(identity)
            routes.setdefault(subset.route, []).extend(_read_items(subset, notes))
    return routes, notes


def _parse(path: Path) -> dict:
    """Return the file's content. An error names file and line, or the program that another format belongs to."""
    text = read_text(path, "dataset configuration")
    if foreign := whose_text(path, text):
        raise UserError(f"{path} (dataset_config): {foreign}")
    if path.suffix.lower() == ".json":
        config = parse_json(text, str(path))
    else:
        config = parse_toml(text, str(path), r"image_dir = 'C:\images'")
    if isinstance(config, list):
        raise UserError(f"{path} (dataset_config): {whose_list(config)}")
    if not isinstance(config, dict):
        raise UserError(f"{path}: expected a table with [[datasets]], got {type(config).__name__}.")
    return config


def _without_empty(value: Any) -> Any:
    """Return the tables without empty texts that mean "not set", as GUIs write them."""
    if isinstance(value, list):
        return [_without_empty(entry) for entry in value]
    if isinstance(value, dict):
        return {key: _without_empty(entry) for key, entry in value.items() if entry != "" or key not in MAY_BE_EMPTY}
    return value


def _subsets(config: dict, path: Path, teachers: Sequence[str], defaults: Mapping[str, object], notes: list[str]):
    """Yield every subset with the keys that it inherits."""
    ignored = _check(config, path)
    for d, dataset in enumerate(config["datasets"], 1):
        for s, subset in enumerate(dataset["subsets"], 1):
            levels = (subset, dataset, config.get("general", {}), defaults)
            yield _subset(levels, path, d, f"{path}, dataset {d}, subset {s}", teachers)
    if ignored:
        notes.append(f"{path}: ignored: {', '.join(ignored)} (images are used unchanged, if they are used at all)")


def _check(config: dict, path: Path) -> list[str]:
    """Check the keys of all tables and return those that are ignored.

    Raises UserError for all that are wrong at once, and for a file without datasets or subsets.
    """
    ignored: dict[str, None] = {}
    wrong: dict[str, list[str]] = {sentence: [""] for sentence in check_top(config)}
    for place, table, level in _tables(config):
        more, sentences = check_table(table, level)
        ignored |= dict.fromkeys(more)
        for sentence in sentences:
            wrong.setdefault(sentence, []).append(place)
    missing = _missing(config)
    if wrong:
        raise UserError(_all_wrong(path, whose(config), wrong))
    if missing:
        foreign = whose(config)
        raise UserError(f"{path} (dataset_config): {foreign}" if foreign else f"{path}{missing}")
    return list(ignored)


def _tables(config: dict) -> Iterator[tuple[str, object, str]]:
    """Yield (place, table, level) of each table in the file."""
    yield "[general]", config.get("general", {}), "[general]"
    datasets = config.get("datasets")
    for d, dataset in enumerate(datasets if isinstance(datasets, list) else [], 1):
        yield f"dataset {d}", dataset, "[[datasets]]"
        subsets = dataset.get("subsets") if isinstance(dataset, dict) else None
        for s, subset in enumerate(subsets if isinstance(subsets, list) else [], 1):
            yield f"dataset {d}, subset {s}", subset, "[[datasets.subsets]]"


def _missing(config: dict) -> str:
    """Return which tables are missing, as the end of a message, or ""."""
    datasets = config.get("datasets")
    if isinstance(datasets, dict):
        return ": datasets is a list: write [[datasets]] with double brackets."
    if not isinstance(datasets, list) or not datasets:
        return ": no datasets. Add [[datasets]] and below it [[datasets.subsets]] with image_dir."
    for d, dataset in enumerate(datasets, 1):
        if isinstance(dataset, dict) and not dataset.get("subsets"):
            return f", dataset {d}: no subsets. Add [[datasets.subsets]] with image_dir below it."
    return ""


def _all_wrong(path: Path, foreign: str, wrong: Mapping[str, list[str]]) -> str:
    """Return one message. `wrong`: sentence -> the places that it concerns ("" is the top of the file)."""
    if len(wrong) == 1 and not foreign:
        ((sentence, places),) = wrong.items()
        return ", ".join([str(path), *filter(None, [few(places)])]) + f": {sentence}"
    told = [f"{few(places)}: {sentence}" if places != [""] else sentence for sentence, places in wrong.items()]
    return f"{path} (dataset_config): {foreign or f'{len(wrong)} things are wrong.'} {' '.join(told)}"


def _subset(levels: tuple[Mapping, ...], path: Path, dataset: int, where: str, teachers: Sequence[str]) -> Subset:
    """Collect what one subset sets and inherits; `levels` run from the subset outwards."""

    def get(key: str, default: object = None):
        return next((level[key] for level in levels if level.get(key) is not None), default)

    own = levels[0]
    if own.get("image_dir") is None and own.get("metadata_file") is None:
        raise UserError(f"{where}: image_dir is missing: the folder with the images or the caption files.")
    if get("resolution") is None:
        raise UserError(f"{where}: resolution is missing. Add resolution = 1024 to its [[datasets]].")
    keys = ("enable_bucket", "bucket_no_upscale", "min_bucket_reso", "max_bucket_reso", "bucket_reso_steps")
    buckets = {key: get(key) for key in keys if get(key) is not None}
    sizes = parse_resolution(get("resolution"), f"{where}: resolution")
    return Subset(
        where=where,
        dataset=dataset,
        route=route_of(get("custom_attributes", {}), teachers, where),
        image_dir=_existing(own, "image_dir", path, where),
        metadata_file=_existing(own, "metadata_file", path, where),
        source_dir=_source_dir(own, path, where),
        caption_extension=get("caption_extension", ".caption"),
        class_tokens=get("class_tokens"),
        recursive=get("recursive", False),
        repeats=get("num_repeats", 1),
        batch_size=get("batch_size"),
        rules=CaptionRules(**{key: get(key) for key in RULE_KEYS if get(key) is not None}),
        buckets=tuple(BucketRules(size, **buckets).checked(where) for size in sizes),
    )


def _existing(table: Mapping, key: str, config: Path, where: str) -> Path | None:
    """Return the path that a subset names, relative to the working directory or the configuration's folder."""
    if table.get(key) is None:
        return None
    path = find_path(table[key], config.parent)
    is_folder = key != "metadata_file"
    if not (os.path.isdir(path) if is_folder else os.path.isfile(path)):
        kind = "folder" if is_folder else "file"
        raise UserError(
            f'{where}: {key}: there is no {kind} "{table[key]}" in {Path.cwd()} or in the folder of {config.name}.'
        )
    return path


def _source_dir(table: Mapping, config: Path, where: str) -> Path | None:
    """Return the folder with the source images, under either name."""
    given = [key for key in SOURCE_KEYS if table.get(key) is not None]
    if len(given) > 1:
        raise UserError(f"{where}: {' and '.join(given)} are two names for the same key. Remove one of them.")
    return _existing(table, given[0], config, where) if given else None


def route_of(attributes: Mapping, teachers: Sequence[str], where: str) -> str:
    """Return the teacher that the subset belongs to; the only teacher if none is named."""
    named = attributes.get("teacher")
    names = ", ".join(teachers)
    if named is None:
        if len(teachers) == 1:
            return teachers[0]
        raise UserError(
            f'{where}: which teacher is this data for? Add custom_attributes.teacher = "..." (teachers: {names}).'
        )
    if named not in teachers:
        known = nearest(str(named), teachers)
        raise UserError(
            f'{where}: custom_attributes.teacher = "{named}" is not a teacher of the preset.{known} '
            f"Teachers: {names}; a new one is a table [danceopd.teachers.{named}]."
        )
    return named


def _read_items(subset: Subset, notes: list[str]) -> list[Item]:
    return read_caption_folder(subset, notes) if subset.metadata_file is None else read_metadata(subset, notes)

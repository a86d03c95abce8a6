"""Reads a preset file and command-line flags into a checked Preset."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from danceopd_ext.config.fields import convert, given, is_unset, key_types, right_word, type_name
from danceopd_ext.config.local_code import NAME, refuse_in_preset, split_off
from danceopd_ext.config.no_effect import without_effect
from danceopd_ext.config.paths import find, placed
from danceopd_ext.config.schema import SECTIONS, Preset, Teacher
from danceopd_ext.config.unknown_keys import UnknownKey, check_unknown_keys, is_foreign_section
from danceopd_ext.data.user_paths import PROMPT_SUFFIXES
from danceopd_ext.errors import MissingFile, UserError, nearest, shorten
from danceopd_ext.foreign.text import read_text
from danceopd_ext.foreign.toml import MOST, parse_toml
from danceopd_ext.ranges import written

#: numbers of [danceopd.datasets] above this are mistakes
MOST_DATASETS = 10_000
TABLES = ("teachers", "prompts", "routes", "datasets")
JSON = (
    "is JSON, as kohya_ss' GUI saves its settings; a preset is TOML. Copy a file from presets/ and set network_dim, "
    "network_alpha, learning_rate, optimizer_type (there optimizer), ... to the values in the JSON file"
)
YAML = "is YAML, as ai-toolkit and SimpleTuner use it; a preset is TOML: copy a file from presets/ and set its keys"


def flat_keys() -> dict[str, str]:
    """Return every flat key -> its section."""
    return {f.name: s for s, cls in SECTIONS.items() for f in dataclasses.fields(cls) if f.name not in TABLES}


def default_of(name: str) -> Any:
    """Return the default of a flat key. Raises KeyError for an unknown key."""
    return getattr(SECTIONS[flat_keys()[name]](), name)


def read_preset(path: Path) -> dict[str, Any]:
    """Return the tables of a preset. Raises UserError, which names file and line, or the program of another file."""
    try:
        text = read_text(path, "preset", MOST)
    except MissingFile:
        raise UserError(f"{path} (--config) does not exist.") from None
    try:
        return parse_toml(text, str(path), r"lora = 'C:\loras\style.safetensors'")
    except UserError:
        if text.lstrip().startswith("{"):
            raise UserError(f"{path} {JSON}.") from None
        if path.suffix.lower() in (".yaml", ".yml"):
            raise UserError(f"{path} {YAML}.") from None
        raise


def load_preset(path: str | Path, overrides: Mapping[str, str | list[str]] | None = None) -> Preset:
    """Read and check a preset. `overrides`: flags of the command line, flat key -> text, or its words.

    Keys of other programs are left out with a note (see Preset.notes) if that is harmless. Raises UserError for all
    others in one message, for a wrong type or range, and for a missing file.
    """
    path, known = Path(path), flat_keys()
    values, others, sections = flatten(read_preset(path), path)
    local, flags = split_off(overrides)
    for name, text in flags.items():
        if name in known:
            values[name] = parse_flag(name, text)
        else:
            others.append(UnknownKey(name, f"--{name}", _most_likely(text)))
    notes = check_unknown_keys(others, sections, path, values, [*known, *TABLES, "config", NAME])
    preset = build_preset(values, path.parent)
    return dataclasses.replace(preset, notes=[*notes, *preset.notes], allow_local_code=local)


def entries(document: dict[str, Any], path: Path) -> Iterator[tuple[str, str, Any]]:
    """Yield section ("" is the top of the file), key and value of each entry; one level of sections is flattened.

    Raises UserError for a key in two sections, since it is unclear which one counts, and for one that belongs only on
    the command line.
    """
    seen: dict[str, str] = {}
    for name, value in document.items():
        section = name if isinstance(value, dict) else ""
        refuse_in_preset(path, value if isinstance(value, dict) else [name])
        for key, entry in value.items() if isinstance(value, dict) else [(name, value)]:
            if key in seen and not is_table(section, key):
                first, second = (f"in [{one}]" if one else "before all sections" for one in (seen[key], section))
                raise UserError(f'{path}: "{key}" is given twice, {first} and {second}. Remove one.')
            if not is_table(section, key):
                seen[key] = section
            yield section, key, entry


def is_table(section: str, key: str) -> bool:
    """Return whether this is [danceopd.teachers] or another of the tables that stay tables."""
    return section == "danceopd" and key in TABLES


def flatten(document: dict[str, Any], path: Path) -> tuple[dict[str, Any], list[UnknownKey], list[str]]:
    """Flatten one level of sections, as sd-scripts does; the tables of [danceopd] stay tables.

    Returns the values of our keys, all other keys, and a sentence on each unknown section.
    """
    known, flat, others = flat_keys(), {}, []
    sections = [name for name, value in document.items() if isinstance(value, dict)]
    unknown = [name for name in sections if name not in SECTIONS and not is_foreign_section(name)]
    document = {name: value for name, value in document.items() if name not in unknown}
    for section, key, entry in entries(document, path):
        if key in known or is_table(section, key):
            flat[key] = entry
        else:
            others.append(UnknownKey(key, key, entry, section))
    return flat, others, [f"unknown section [{name}].{nearest(name, SECTIONS)}" for name in unknown]


def build_preset(values: dict[str, Any], folder: Path) -> Preset:
    """Return the checked preset of flat values; paths are looked up from the current directory, then from `folder`."""
    preset = Preset(**{name: build_section(name, values, folder) for name in SECTIONS})
    return dataclasses.replace(preset, notes=without_effect(preset))


def build_section(section: str, values: dict[str, Any], folder: Path) -> Any:
    """Return one checked section from flat values. Raises UserError."""
    cls = SECTIONS[section]
    arguments = _read({name: value for name, value in values.items() if name not in TABLES}, cls, folder)
    if section == "danceopd":
        arguments |= _danceopd_tables(values, folder)
    return cls(**arguments)


def _read(values: Mapping[str, Any], cls: type, folder: Path, where: str = "") -> dict[str, Any]:
    """Return the section's keys that are set, converted, with their paths found. `where`: precedes a key's name."""
    annotations, arguments = key_types(cls), {}
    metadata = {field.name: field.metadata for field in dataclasses.fields(cls)}
    for name, value in given(values, cls).items():
        value = convert(where + name, value, annotations[name], metadata[name].get("meant"))
        arguments[name] = placed(value, metadata[name].get("path", ""), folder)
    return arguments


def _danceopd_tables(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    teachers = {name: _teacher(name, entry, folder) for name, entry in _table(values, "teachers").items()}
    tables = {
        "prompts": {n: files for n, e in _table(values, "prompts").items() if (files := _prompts(n, e, folder))},
        "routes": {n: convert(f"[danceopd.routes] {n}", e, float) for n, e in _table(values, "routes").items()},
        "datasets": {name: _datasets(name, entry) for name, entry in _table(values, "datasets").items()},
    }
    for table, names in tables.items():
        for name in names:
            if name not in teachers:
                raise UserError(
                    f"[danceopd.{table}] names {name}, but there is no [danceopd.teachers.{name}]."
                    f"{nearest(name, teachers)}"
                )
    return {"teachers": teachers, **tables}


def _prompts(name: str, entry: Any, folder: Path) -> list[str]:
    """Return a teacher's prompt files. Raises UserError for a text that is not a file name, such as a prompt."""
    where = f"[danceopd.prompts] {name}"
    files = convert(where, entry, str | list[str])
    files = [file for file in ([files] if isinstance(files, str) else files) if file.strip()]
    for file in files:
        if Path(file).suffix.lower() not in PROMPT_SUFFIXES:
            raise UserError(
                f'{where} = "{shorten(file)}": expected the name of a file that ends in '
                f"{', '.join(PROMPT_SUFFIXES[:-1])} or {PROMPT_SUFFIXES[-1]}. Write the prompts into a file, one per "
                "line in .txt, and name it here."
            )
    return [find(file, folder) for file in files]


def _datasets(name: str, entry: Any) -> int | str | list[int | str]:
    """Return which entries of musubi-tuner's dataset file belong to a teacher: numbers from 1, or their folders."""
    where = f"[danceopd.datasets] {name}"
    which = convert(where, entry, int | str | list[int | str])
    for one in which if isinstance(which, list) else [which]:
        if isinstance(one, int) and one < 1:
            raise UserError(f"{where} = {one}: the first [[datasets]] entry is number 1.")
        if isinstance(one, int) and one > MOST_DATASETS:
            raise UserError(f"{where} = {written(one)}: no dataset file has so many [[datasets]] entries.")
    if which in ("", []):
        raise UserError(f"{where} is empty: give the number of a [[datasets]] entry, or its folder.")
    return which


def _table(values: dict[str, Any], name: str) -> dict[str, Any]:
    table = values.get(name, {})
    if not isinstance(table, dict):
        raise UserError(f"[danceopd.{name}] must be a table of names.")
    return table


def _teacher(name: str, entry: Any, folder: Path) -> Teacher:
    where = f"[danceopd.teachers.{name}]"
    if not isinstance(entry, dict):
        raise UserError(f"{where} must be a section of its own.")
    known = key_types(Teacher)
    if unknown := [f'unknown key "{key}".{nearest(key, known)}' for key in entry if key not in known]:
        raise UserError(f"{where}: {' '.join(unknown)}")
    arguments = _read(entry, Teacher, folder, f"{where} ")
    empty = next((key for key in ("lora", "checkpoint") if key in entry), None)
    if empty and not (arguments.get("lora") or arguments.get("checkpoint")):
        raise UserError(
            f"{where}: {empty} is empty. Name a file or hub id, or remove the key: a section without keys is the base."
        )
    try:
        return Teacher(**arguments)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def parse_flag(name: str, text: str | list[str]) -> Any:
    """Return the value of a command-line flag (its text or words) as its key's type. Raises UserError.

    A true/false key without words is switched on.
    """
    known = flat_keys()
    if name not in known:
        raise UserError(f"unknown argument --{name}.{nearest(name, [*known, 'config'])}")
    cls = SECTIONS[known[name]]
    annotation, metadata = key_types(cls)[name], cls.__dataclass_fields__[name].metadata
    words = text.split() if isinstance(text, str) else text
    if not words and annotation is not bool:
        raise UserError(f"--{name} needs a value: write --{name} VALUE.")
    text = " ".join(words or ["true"])
    if is_unset(text, annotation, metadata):
        return text
    for candidate in [*_readings(text), words]:
        try:
            return convert(name, candidate, annotation)
        except UserError:
            continue
    what = f"--{name} {text}: expected {type_name(annotation)}.".replace("\\|", "or")
    raise UserError(what + right_word(text, annotation, metadata.get("meant"), alike=0.65))


def _most_likely(text: str | list[str]) -> Any:
    """Return the likely value of an unknown flag: a switch without words, a number, a text or a list."""
    words = text.split() if isinstance(text, str) else text
    return words if len(words) > 1 else _readings(words[0])[0] if words else True


def _readings(text: str) -> list[Any]:
    """Return the values that a flag's text may stand for, the most specific first."""
    readings: list[Any] = []
    if text.lower() in ("true", "false"):
        readings.append(text.lower() == "true")
    for number in (int, float):
        try:
            readings.append(number(text))
        except ValueError:
            continue
    return [*readings, text]

"""A preset file and command-line flags -> a checked Preset."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from danceopd_ext.config.fields import convert, key_types, type_name
from danceopd_ext.config.schema import SECTIONS, Preset, Teacher
from danceopd_ext.data.textfiles import PROMPT_SUFFIXES, breaks
from danceopd_ext.errors import UserError, few_letters, nearest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TABLES = ("teachers", "prompts", "routes", "datasets")
BACKSLASH = " In double quotes a backslash must be doubled: write paths with / or in 'single quotes'."


def flat_keys() -> dict[str, str]:
    """Every flat key -> its section."""
    return {f.name: s for s, cls in SECTIONS.items() for f in dataclasses.fields(cls) if f.name not in TABLES}


def default_of(name: str) -> Any:
    """The value of a flat key that a preset does not name. Raises KeyError for what is no key."""
    return getattr(SECTIONS[flat_keys()[name]](), name)


def read_toml(path: Path) -> dict[str, Any]:
    """Parse a TOML file (UTF-8). Raises UserError naming the file and the line."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise UserError(f"{path} (--config) does not exist.") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text: save it as UTF-8.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}).") from error
    except tomllib.TOMLDecodeError as error:
        backslash = any(word in str(error).lower() for word in ("escape", "hex value"))  # "C:\models", "C:\users"
        raise UserError(f"{path}: {error}.{BACKSLASH if backslash else ''}") from None


def load_preset(path: str | Path, overrides: Mapping[str, str | list[str]] | None = None) -> Preset:
    """Read and check a preset. `overrides`: flags of the command line, flat key -> text, or its words.

    Raises UserError for an unknown key (naming the nearest), a wrong type or range, or a missing file.
    """
    path = Path(path)
    values = flatten(read_toml(path), path)
    for name, text in (overrides or {}).items():
        values[name] = parse_flag(name, text)
    return build_preset(values, path.parent)


def entries(document: dict[str, Any], path: Path) -> Iterator[tuple[str, str, Any]]:
    """Section ("" is the top of the file), key and value of each entry: one level of sections is dissolved.

    Raises UserError for a key that stands in two sections: which of them counts would be a guess.
    """
    seen: dict[str, str] = {}
    for name, value in document.items():
        section = name if isinstance(value, dict) else ""
        for key, entry in value.items() if isinstance(value, dict) else [(name, value)]:
            if key in seen and not is_table(section, key):
                first, second = (f"in [{one}]" if one else "before all sections" for one in (seen[key], section))
                raise UserError(f'{path}: "{key}" is given twice, {first} and {second}. Remove one.')
            if not is_table(section, key):
                seen[key] = section
            yield section, key, entry


def is_table(section: str, key: str) -> bool:
    """Whether this is [danceopd.teachers] or another of the tables that stay tables."""
    return section == "danceopd" and key in TABLES


def flatten(document: dict[str, Any], path: Path) -> dict[str, Any]:
    """One level of sections is dissolved, as sd-scripts does; the tables of [danceopd] stay tables."""
    known, flat = flat_keys(), {}
    for name, value in document.items():
        if isinstance(value, dict) and name not in SECTIONS:
            raise UserError(f"{path}: unknown section [{name}].{nearest(name, SECTIONS)}")
    for section, key, entry in entries(document, path):
        if key not in known and not is_table(section, key):
            where = f" in [{section}]" if section else ""
            raise UserError(f'{path}: unknown key "{key}"{where}.{nearest(key, [*known, *TABLES])}')
        flat[key] = entry
    return flat


def build_preset(values: dict[str, Any], folder: Path) -> Preset:
    """Checked sections from flat values; paths are looked up from the current directory, then from `folder`."""
    sections = {name: build_section(name, values, folder) for name in SECTIONS}
    sections["model"].pretrained_model_name_or_path = _find(sections["model"].pretrained_model_name_or_path, folder)
    sections["model"].components_from = _find(sections["model"].components_from, folder)
    return Preset(**sections)


def build_section(section: str, values: dict[str, Any], folder: Path) -> Any:
    """One checked section from flat values. Raises UserError."""
    cls = SECTIONS[section]
    annotations, arguments = key_types(cls), {}
    for field in dataclasses.fields(cls):
        if field.name in values and field.name not in TABLES:
            value = convert(field.name, values[field.name], annotations[field.name])
            if field.name.endswith("_dir"):  # made, not looked up
                _check_path(value)
            arguments[field.name] = _find(value, folder) if field.metadata.get("path") else value
    if section == "danceopd":
        arguments |= _danceopd_tables(values, folder)
    return cls(**arguments)


def _danceopd_tables(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    teachers = {name: _teacher(name, entry, folder) for name, entry in _table(values, "teachers").items()}
    tables = {
        "prompts": {name: _prompts(name, entry, folder) for name, entry in _table(values, "prompts").items()},
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
    """A teacher's prompt files. Raises UserError for a text that is no file's name, such as the prompt itself."""
    where = f"[danceopd.prompts] {name}"
    files = convert(where, entry, str | list[str])
    files = [files] if isinstance(files, str) else files
    for file in files:
        if Path(file).suffix.lower() not in PROMPT_SUFFIXES:
            raise UserError(
                f'{where} = "{few_letters(file)}": takes the name of a file that ends in '
                f"{', '.join(PROMPT_SUFFIXES[:-1])} or {PROMPT_SUFFIXES[-1]}. Write the prompts into one, a prompt a "
                "line in .txt, and name it here."
            )
    return [_find(file, folder) for file in files]


def _datasets(name: str, entry: Any) -> int | str | list[int | str]:
    """Which entries of musubi-tuner's dataset file belong to a teacher: numbers from 1, or their folders."""
    where = f"[danceopd.datasets] {name}"
    which = convert(where, entry, int | str | list[int | str])
    for one in which if isinstance(which, list) else [which]:
        if isinstance(one, int) and one < 1:
            raise UserError(f"{where} = {one}: the first [[datasets]] entry is number 1.")
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
    annotations = key_types(Teacher)
    for key in entry:
        if key not in annotations:
            raise UserError(f'{where}: unknown key "{key}".{nearest(key, annotations)}')
    arguments = {key: convert(f"{where} {key}", value, annotations[key]) for key, value in entry.items()}
    if isinstance(arguments.get("lora"), str):
        arguments["lora"] = _find(arguments["lora"], folder)
    elif arguments.get("lora"):
        arguments["lora"] = [_find(one, folder) for one in arguments["lora"]]
    arguments["checkpoint"] = _find(arguments.get("checkpoint"), folder)
    try:
        return Teacher(**arguments)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def _find(value: str | None, folder: Path) -> str | None:
    """The path as given if it exists from the current directory, else from the preset's folder, else unchanged."""
    _check_path(value)
    # os.path: Path.exists raises for what cannot be a file's name, and whoever opens the file says it better
    if not value or os.path.exists(value):
        return value
    beside = folder / value
    return str(beside) if os.path.exists(beside) else value


def _check_path(value: str | None) -> None:
    """Raise UserError for what TOML makes of "C:\new" and "C:\trained": a line break, a tab."""
    if value and breaks(value):
        raise UserError(f"{value!r}: a line break or tab is no part of a path.{BACKSLASH}")


def parse_flag(name: str, text: str | list[str]) -> Any:
    """The value of a command-line flag: text, or its words, that its key's type can take. Raises UserError.

    A true/false key without words is switched on.
    """
    known = flat_keys()
    if name not in known:
        raise UserError(f"unknown argument --{name}.{nearest(name, [*known, 'config'])}")
    annotation = key_types(SECTIONS[known[name]])[name]
    words = text.split() if isinstance(text, str) else text
    if not words and annotation is not bool:
        raise UserError(f"--{name} needs a value: write --{name} VALUE.")
    text = " ".join(words or ["true"])
    for candidate in [*_readings(text), words]:
        try:
            return convert(name, candidate, annotation)
        except UserError:
            continue
    raise UserError(f"--{name} {text}: takes {type_name(annotation)}.".replace("\\|", "or"))


def _readings(text: str) -> list[Any]:
    """What a flag's text may mean, most specific first."""
    readings: list[Any] = []
    if text.lower() in ("true", "false"):
        readings.append(text.lower() == "true")
    for number in (int, float):
        try:
            readings.append(number(text))
        except ValueError:
            continue
    return [*readings, text]

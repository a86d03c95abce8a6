"""A preset file and command-line flags -> a checked Preset."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from danceopd_ext.config.fields import convert, key_types, type_name
from danceopd_ext.config.schema import SECTIONS, Preset, Teacher
from danceopd_ext.errors import UserError, nearest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TABLES = ("teachers", "prompts", "routes")


def flat_keys() -> dict[str, str]:
    """Every flat key -> its section."""
    return {f.name: s for s, cls in SECTIONS.items() for f in dataclasses.fields(cls) if f.name not in TABLES}


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
        backslash = any(word in str(error).lower() for word in ("escape", "hex value"))  # "C:\new", "C:\users"
        hint = " In double quotes a backslash must be doubled: write paths with / or in 'single quotes'."
        raise UserError(f"{path}: {error}.{hint if backslash else ''}") from None


def load_preset(path: str | Path, overrides: Mapping[str, str | list[str]] | None = None) -> Preset:
    """Read and check a preset. `overrides`: flags of the command line, flat key -> text, or its words.

    Raises UserError for an unknown key (naming the nearest), a wrong type or range, or a missing file.
    """
    path = Path(path)
    values = flatten(read_toml(path), path)
    for name, text in (overrides or {}).items():
        values[name] = parse_flag(name, text)
    return build_preset(values, path.parent)


def flatten(document: dict[str, Any], path: Path) -> dict[str, Any]:
    """One level of sections is dissolved, as sd-scripts does; the tables of [danceopd] stay tables."""
    known, flat = flat_keys(), {}
    for name, value in document.items():
        if isinstance(value, dict) and name not in SECTIONS:
            raise UserError(f"{path}: unknown section [{name}].{nearest(name, SECTIONS)}")
        for key, entry in value.items() if isinstance(value, dict) else [(name, value)]:
            if key in TABLES and name == "danceopd":
                flat[key] = entry
            elif key not in known:
                raise UserError(f'{path}: unknown key "{key}" in [{name}].{nearest(key, [*known, *TABLES])}')
            elif key in flat:
                raise UserError(f'{path}: "{key}" is given twice.')
            else:
                flat[key] = entry
    return flat


def build_preset(values: dict[str, Any], folder: Path) -> Preset:
    """Checked sections from flat values; paths are looked up from the current directory, then from `folder`."""
    sections = {}
    for section, cls in SECTIONS.items():
        annotations, arguments = key_types(cls), {}
        for field in dataclasses.fields(cls):
            if field.name in values and field.name not in TABLES:
                value = convert(field.name, values[field.name], annotations[field.name])
                arguments[field.name] = _find(value, folder) if field.metadata.get("path") else value
        if section == "danceopd":
            arguments |= _danceopd_tables(values, folder)
        sections[section] = cls(**arguments)
    sections["model"].pretrained_model_name_or_path = _find(sections["model"].pretrained_model_name_or_path, folder)
    sections["model"].components_from = _find(sections["model"].components_from, folder)
    return Preset(**sections)


def _danceopd_tables(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    teachers = {name: _teacher(name, entry, folder) for name, entry in _table(values, "teachers", "teachers").items()}
    prompts = {}
    for name, entry in _table(values, "prompts", "prompts").items():
        files = convert(f"[danceopd.prompts] {name}", entry, str | list[str])
        prompts[name] = [_find(f, folder) for f in ([files] if isinstance(files, str) else files)]
    routes = {
        name: convert(f"[danceopd.routes] {name}", entry, float)
        for name, entry in _table(values, "routes", "routes").items()
    }
    for table, names in (("prompts", prompts), ("routes", routes)):
        for name in names:
            if name not in teachers:
                raise UserError(
                    f"[danceopd.{table}] names {name}, but there is no [danceopd.teachers.{name}]."
                    f"{nearest(name, teachers)}"
                )
    return {"teachers": teachers, "prompts": prompts, "routes": routes}


def _table(values: dict[str, Any], key: str, name: str) -> dict[str, Any]:
    table = values.get(key, {})
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
    if not value or Path(value).exists():
        return value
    beside = folder / value
    return str(beside) if beside.exists() else value


def parse_flag(name: str, text: str | list[str]) -> Any:
    """The value of a command-line flag: text, or its words, that its key's type can take. Raises UserError."""
    known = flat_keys()
    if name not in known:
        raise UserError(f"unknown argument --{name}.{nearest(name, known)}")
    annotation = key_types(SECTIONS[known[name]])[name]
    words = text.split() if isinstance(text, str) else text
    text = " ".join(words)
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

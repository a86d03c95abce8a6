"""Writes a preset as it was used: the file's values under those of the command line, and every default."""

from __future__ import annotations

import dataclasses
import os
import re
from argparse import Namespace
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from danceopd_ext.config.danceopd import DanceOPDSection
from danceopd_ext.config.hosted_preset import HostedPreset
from danceopd_ext.config.schema import SECTIONS, Preset
from danceopd_ext.config.toml_text import toml_text
from danceopd_ext.foreign.hub import repository_of

#: tables of [danceopd], and whether their values are paths
TABLES = {"prompts": True, "routes": False, "datasets": False}
#: keys about one start of a run, which another run must not repeat
ONCE = ("resume", "overwrite", "toolkit_dir")
#: what the names of keys with a secret contain
SECRET = re.compile(r"token$|api_key|password|secret")

Paths = Callable[[str], str]
"""What becomes of a path: `absolute` or `name_of`."""


def absolute(path: str) -> str:
    """Return the absolute path, so that the preset works from any folder; a hub id stays as it is."""
    return path if is_hub_id(path) else os.path.abspath(path)


def name_of(path: str) -> str:
    """Return only the name of a file or folder; a hub id stays as it is."""
    return path if is_hub_id(path) else PureWindowsPath(PurePosixPath(path).name).name or path


def is_hub_id(place: str) -> bool:
    """Return whether this names a model on the hub and nothing on this machine."""
    return repository_of(place) is not None and not os.path.lexists(place)


def native_preset(preset: Preset, paths: Paths = absolute) -> str:
    """Return a native preset as TOML."""
    sections = {name: _keys(getattr(preset, name), paths) for name in SECTIONS if name != "danceopd"}
    return _toml(sections, preset.danceopd, paths)


def hosted_preset(preset: HostedPreset, arguments: Namespace, paths: Paths = absolute) -> str:
    """Return a toolkit's preset as TOML, without the toolkit's defaults. `arguments`: what its trainer gets."""
    words = {
        name: True if not given else given[0] if len(given) == 1 else given for name, given in preset.flags.items()
    }
    given = {"model_type": preset.model_type, **preset.values, **words}
    typed = {name: vars(arguments).get(name, value) for name, value in given.items()}
    values = {name: _path_inside(name, value, paths) for name, value in typed.items() if _is_kept(name, value)}
    return _toml({"training": values}, preset.danceopd, paths)


def _toml(sections: Mapping[str, Mapping[str, Any]], options: DanceOPDSection, paths: Paths) -> str:
    tables = {**sections, "danceopd": _keys(options, paths)}
    for name, teacher in options.teachers.items():
        tables[f"danceopd.teachers.{_key(name)}"] = _keys(teacher, paths)
    for name, are_paths in TABLES.items():
        table = getattr(options, name)
        tables[f"danceopd.{name}"] = {_key(k): _moved(v, paths) if are_paths else v for k, v in table.items()}
    written = ("\n".join([f"[{name}]", *(f"{k} = {toml_text(v)}" for k, v in t.items())]) for name, t in tables.items()
               if t or name.startswith("danceopd.teachers."))  # fmt: skip
    return "\n\n".join(written) + "\n"


def _keys(section: Any, paths: Paths) -> dict[str, Any]:
    """Return the keys of a section that have a value, with their paths changed."""
    found = {}
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        if isinstance(value, dict) or not _is_kept(field.name, value):
            continue
        found[field.name] = _moved(value, paths) if field.metadata.get("path") else value
    return found


def _is_kept(name: str, value: Any) -> bool:
    return value is not None and name not in ONCE and not SECRET.search(name)


def _moved(value: Any, paths: Paths) -> Any:
    return [paths(one) for one in value] if isinstance(value, list) else paths(value) if value else value


def _path_inside(name: str, value: Any, paths: Paths) -> Any:
    """Return a toolkit's value; its key, a folder in it or a file name marks a path."""
    if isinstance(value, (list, tuple)):
        return [_path_inside(name, one, paths) for one in value]
    if isinstance(value, (bool, int, float)):
        return value
    text = os.fspath(value) if isinstance(value, os.PathLike) else str(value)
    is_path = name.endswith("_dir") or "/" in text or "\\" in text or os.path.isfile(text)
    return paths(text) if is_path and "=" not in text else text


def _key(name: str) -> str:
    """Return a name as a TOML key."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else toml_text(name)

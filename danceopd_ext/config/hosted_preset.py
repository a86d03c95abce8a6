"""Splits a preset for the user's checkout of a toolkit into our part and the part for the toolkit's own parser."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from danceopd_ext.config.danceopd import DanceOPDSection
from danceopd_ext.config.fields import convert, key_types
from danceopd_ext.config.foreign_keys import is_gui_key
from danceopd_ext.config.load import TABLES, build_section, entries, flat_keys, is_table, parse_flag, read_preset
from danceopd_ext.config.local_code import split_off
from danceopd_ext.config.toolkits import NATIVE, TOOLKITS
from danceopd_ext.config.unknown_keys import gui_notes
from danceopd_ext.errors import UserError, nearest


@dataclass(frozen=True, kw_only=True)
class HostedPreset:
    """A preset for the training loop of a toolkit.

    danceopd: checked, as in a native preset. values: the toolkit's arguments as TOML gave them, flat. flags: the
    words of those that were given on the command line; they win over the file. Both are not checked yet: only the
    toolkit's own parser can (see toolkits/hosted/arguments.py).
    """

    path: Path
    toolkit: str
    danceopd: DanceOPDSection
    model_type: str | None
    values: dict[str, Any]
    flags: dict[str, list[str]]
    notes: list[str] = field(default_factory=list)
    """Notes to print before the run: keys that were left out."""
    allow_local_code: bool = False
    """Whether the command line allows code that the preset names to run (see local_code.py)."""
    toolkit_dir_is_told: bool = False
    """Whether the command line names the checkout, not the preset."""


def danceopd_keys() -> list[str]:
    """Return the flat keys of [danceopd], which are ours in every section and on the command line."""
    return [name for name, section in flat_keys().items() if section == "danceopd"]


def split_preset(path: str | Path, flags: Mapping[str, list[str]] | None = None) -> HostedPreset | None:
    """Return the preset for a toolkit, or None if it is a native one (see load_preset). `flags`: key -> its words.

    Raises UserError for mistakes in our part and for values that cannot be a toolkit's argument.
    """
    path = Path(path)
    local, flags = split_off(flags)
    document = read_preset(path)
    toolkit = _toolkit(document, flags)
    if TOOLKITS[toolkit].checkout is None:
        return None
    ours, theirs = _split(document, path)
    told = "toolkit_dir" in flags
    for name in [*danceopd_keys(), "model_type"]:
        if name in flags:
            words = flags.pop(name)
            ours[name] = " ".join(words) if name == "model_type" else parse_flag(name, words)
    only_gui = [name for name in theirs if is_gui_key(name)]
    theirs = {name: value for name, value in theirs.items() if name not in only_gui}
    model_type = convert("model_type", ours.pop("model_type", None), str | None)
    danceopd = build_section("danceopd", ours, path.parent)
    danceopd.require_teachers()
    return HostedPreset(
        path=path,
        toolkit=toolkit,
        danceopd=danceopd,
        model_type=model_type or None,
        values=theirs,
        flags=flags,
        notes=gui_notes(only_gui),
        allow_local_code=local,
        toolkit_dir_is_told=told,
    )


def _toolkit(document: Mapping[str, Any], flags: Mapping[str, list[str]]) -> str:
    """Return the toolkit; it is looked up first, since it decides how the rest is read."""
    if "toolkit" in flags:
        return parse_flag("toolkit", flags["toolkit"])
    sections = [document, *(value for value in document.values() if isinstance(value, dict))]
    given = next((section["toolkit"] for section in sections if section.get("toolkit")), NATIVE.name)
    return convert("toolkit", given, key_types(DanceOPDSection)["toolkit"])


def _split(document: dict[str, Any], path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the flat entries that are ours, and the toolkit's."""
    ours: dict[str, Any] = {}
    theirs: dict[str, Any] = {}
    known = [*danceopd_keys(), "model_type"]
    for section, key, entry in entries(document, path):
        if key in known or is_table(section, key):
            ours[key] = entry
        elif section == "danceopd":
            raise UserError(
                f'{path}: unknown key "{key}" in [danceopd].{nearest(key, [*known, *TABLES])} '
                "Write the toolkit's own keys in another section."
            )
        else:
            _check_plain(path, section, key, entry)
            theirs[key] = entry
    return ours, theirs


def _check_plain(path: Path, section: str, key: str, entry: Any) -> None:
    """Raise UserError unless the entry is a value or a list of values."""
    if isinstance(entry, dict):
        where = f"[{section}.{key}]"
    elif isinstance(entry, list) and any(isinstance(one, dict) for one in entry):
        where = f"[[{section}.{key}]]" if section else f"[[{key}]]"
    else:
        return
    hint = " Datasets are described in the file that dataset_config names." if key in ("datasets", "general") else ""
    raise UserError(f"{path}: {where} is a table, but the toolkit's arguments are single values or lists.{hint}")

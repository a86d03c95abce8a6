"""Sorts the unknown keys of a preset: some are left out with a note, the others are refused in one message."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from danceopd_ext.config.danceopd import Teacher
from danceopd_ext.config.fields import NOT_SET
from danceopd_ext.config.foreign_keys import FOREIGN_ENDING, FOREIGN_KEYS, FOREIGN_SECTIONS, is_gui_key
from danceopd_ext.errors import UserError, nearest

#: how similar a key must be to one of ours for a hint, and to a foreign one to be treated as that
ALIKE, THE_SAME = 0.65, 0.85


@dataclass(frozen=True)
class UnknownKey:
    """A key that a native preset does not have. written: as the user wrote it, with dashes on the command line."""

    name: str
    written: str
    value: Any
    section: str = ""

    @property
    def is_flag(self) -> bool:
        return self.written.startswith("--")


def check_unknown_keys(
    keys: Iterable[UnknownKey], sections: Iterable[str], path: Path, values: Mapping[str, Any], known: Iterable[str]
) -> list[str]:
    """Return notes on the keys that can be left out. `sections`: sentences on unknown ones. `values`: the preset's own.

    `known`: its keys.

    Raises UserError, one message for all that cannot be left out.
    """
    known = list(known)
    gui, off, harmless, refused, unknown = [], {}, {}, {}, []
    for one in keys:
        group = FOREIGN_KEYS.get(one.name)
        if is_gui_key(one.name):
            gui.append(one.written)
        elif group is None:
            unknown.append(_unknown(one, known))
        else:
            fine = group.harmless(one.value, values)
            groups = off if _switched_off(one.value) else harmless if fine else refused
            groups.setdefault(group.answer, []).append(one.written)
    problems = [*sections, *unknown, *_lines(refused)]
    notes = [f"without effect here: {', '.join(names)} ({answer})" for answer, names in harmless.items()]
    if problems:
        idle = {answer: harmless.get(answer, []) + off.get(answer, []) for answer in {**harmless, **off}}
        raise UserError(_message(problems, _lines(idle), gui, path))
    return [*notes, *gui_notes(gui)]


def gui_notes(names: list[str]) -> list[str]:
    """Return one note on the keys that only a GUI reads, or none."""
    return [f"left out because only a training GUI reads them: {', '.join(names)}"] if names else []


def is_foreign_section(name: str) -> bool:
    """Return whether other programs put sd-scripts' flat keys into a section of this name."""
    return name in FOREIGN_SECTIONS or name.endswith(FOREIGN_ENDING)


def _lines(groups: Mapping[str, list[str]]) -> list[str]:
    return [f"{', '.join(names)}: {answer}." for answer, names in groups.items()]


def _message(problems: list[str], harmless: list[str], gui: list[str], path: Path) -> str:
    if len(problems) == 1 and not harmless and not gui:
        return problems[0] if problems[0].startswith("unknown argument") else f"{path}: {problems[0]}"
    parts = ["\n- ".join([f"{path}: these cannot be used here:", *problems])]
    if harmless:
        parts.append("\n- ".join(["These have no effect here and may stay:", *harmless]))
    if gui:
        parts.append(f"Only a training GUI reads these, and they may stay: {', '.join(gui)}.")
    return "\n".join(parts)


def _unknown(one: UnknownKey, known: list[str]) -> str:
    what = f"unknown argument {one.written}." if one.is_flag else f'unknown key "{one.name}"{_where(one.section)}.'
    if one.name in (field.name for field in dataclasses.fields(Teacher)):
        return f"{what} It belongs to a teacher: write it below [danceopd.teachers.NAME]."
    like = difflib.get_close_matches(one.name, [*known, *FOREIGN_KEYS], n=1, cutoff=THE_SAME)
    if like and like[0] not in known:
        return f"{what} sd-scripts has {like[0]}: {FOREIGN_KEYS[like[0]].answer}."
    # a number of epochs is not a number of steps, however similar the words are
    return what + ("" if "epoch" in one.name else nearest(one.name, known, ALIKE))


def _where(section: str) -> str:
    return f" in [{section}]" if section else ""


def _switched_off(value: Any) -> bool:
    """Return whether it is false, 0, empty or a list of these, which is the same as a missing key."""
    if isinstance(value, str):
        return value.strip().lower() in (*NOT_SET, "false", "0", "0.0")
    return all(map(_switched_off, value)) if isinstance(value, list) else not value

"""Reads `--allow_local_code`, which allows code from outside the installed packages to run.

People download presets from people they do not know. So only the command line can set it; a preset that sets it is
refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from danceopd_ext.errors import UserError

NAME = "allow_local_code"
FLAG = f"--{NAME}"


def split_off(flags: Mapping[str, str | list[str]] | None) -> tuple[bool, dict[str, str | list[str]]]:
    """Return whether the command line allows local code, and its other flags. Raises UserError for a wrong value."""
    others = dict(flags or {})
    words = others.pop(NAME, "false")
    words = words.split() if isinstance(words, str) else words
    word = " ".join(words).lower() or "true"
    if word not in ("true", "false"):
        raise UserError(f"{FLAG} {word}: this flag takes no value. Write {FLAG} alone.")
    return word == "true", others


def refuse_in_preset(path: Path, keys: Iterable[str]) -> None:
    """Raise UserError if a preset allows itself to run code."""
    if NAME in keys:
        raise UserError(
            f"{path}: {NAME} cannot be set in a preset: a downloaded preset could allow itself to run code. "
            f"Remove it. If you trust the code, write {FLAG} on the command line."
        )

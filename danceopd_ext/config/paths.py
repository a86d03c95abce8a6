"""Finds the files and folders that a preset names."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from danceopd_ext.data.user_paths import breaks
from danceopd_ext.errors import UserError

BACKSLASH = " In double quotes a backslash must be doubled: write paths with / or in 'single quotes'."


def placed(value: Any, kind: str, folder: Path) -> Any:
    """Return the value, or list of values, of a key whose `path` is of this kind (see fields.key). Raises UserError.

    `folder`: the preset's.
    """
    if isinstance(value, list):
        return [placed(one, kind, folder) for one in value]
    if not kind or value is None:
        return value
    return find(value, folder) if kind == "found" else at_home(value)


def find(value: str, folder: Path) -> str:
    """Return the path if it exists from the current directory, else from `folder`, else unchanged (a hub id)."""
    value = at_home(value)
    # os.path.exists, since Path.exists raises for an invalid name; the code that opens the file reports that
    if os.path.exists(value):
        return value
    beside = folder / value
    return str(beside) if os.path.exists(beside) else value


def at_home(value: str) -> str:
    r"""Return the path with `~` replaced by the home folder.

    Raises UserError for what TOML makes of "C:\new" and "C:\trained": a line break, a tab.
    """
    if breaks(value):
        raise UserError(f"{value!r}: a path cannot contain a line break or a tab.{BACKSLASH}")
    return os.path.expanduser(value) if value == "~" or value.startswith(("~/", "~\\")) else value

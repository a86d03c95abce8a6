"""Reads TOML, within the limits of `limits`."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from danceopd_ext.errors import UserError, shorten
from danceopd_ext.foreign.files import MIB
from danceopd_ext.foreign.limits import DEEPEST, check_limits
from danceopd_ext.foreign.text import read_text

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

#: the most bytes of a TOML file, and characters of its parser's error, which may quote a whole key
MOST, LONGEST = MIB, 300
EXAMPLE = r"path = 'C:\folder\file'"

#: what is not a key; if it is not closed, all that follows, so that its end is not searched again from each quote
_STRINGS = re.compile(
    r'"""[^\\"]*(?:(?:\\.|"(?!""))[^\\"]*)*(?:"{3,5}|\Z)?'
    r"|'''.*?(?:'{3,5}|\Z)"
    r'|"[^"\\\n]*(?:\\.[^"\\\n]*)*"?'
    r"|'[^'\n]*'?"
    r"|\#[^\n]*",
    re.DOTALL,
)
_NO_KEY = re.compile(r"[^\w.\- \t]")


def read_toml(path: Path, what: str = "TOML file", example: str = EXAMPLE) -> dict[str, Any]:
    """Return the tables of a TOML file. Raises UserError; see `read_text` and `parse_toml`."""
    return parse_toml(read_text(path, what, MOST), str(path), example)


def parse_toml(text: str, where: str, example: str = EXAMPLE) -> dict[str, Any]:
    """Return the tables of a TOML text. Raises UserError, which begins with `where` and names the line.

    `example` shows how a Windows path is written in it.
    """
    _check_keys(text, where)
    try:
        tables = tomllib.loads(text)
    except RecursionError:
        raise UserError(f"{where}: not valid TOML: its values are nested too deeply. Is it the right file?") from None
    except ValueError as error:  # TOMLDecodeError is a ValueError; so is the error for a number of thousands of digits
        raise UserError(f"{where}: not valid TOML: {_reason(error)}.{_hint(text, error, example)}") from None
    check_limits(tables, where)
    return tables


def _check_keys(text: str, where: str) -> None:
    """Raise UserError for a key of very many parts (a.a.a.a): the parser's time grows with the square of them."""
    if any(part.count(".") > DEEPEST for part in _NO_KEY.split(_STRINGS.sub("s", text))):
        raise UserError(f"{where}: a key has more than {DEEPEST} parts separated by dots. Is it the right file?")


def _reason(error: ValueError) -> str:
    if isinstance(error, tomllib.TOMLDecodeError):
        return shorten(str(error), LONGEST)
    return "a number or date is out of range" if "digits" not in str(error) else "a number has thousands of digits"


def _hint(text: str, error: ValueError, example: str) -> str:
    escaped = "\\" in text and any(word in str(error).lower() for word in ("escape", "backslash", "hex"))
    return f" Write Windows paths in single quotes: {example}." if escaped else ""

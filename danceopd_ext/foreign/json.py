"""Reads JSON, within the limits of `limits`. If an object has a key twice, the last one counts, as usual."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from danceopd_ext.errors import UserError, shorten
from danceopd_ext.foreign.files import MIB
from danceopd_ext.foreign.limits import check_limits
from danceopd_ext.foreign.text import read_text

#: the most bytes of a JSON document, which takes many times as much memory
MOST = 64 * MIB

PATH_REMEDY = 'In JSON write paths with / or with two backslashes: "C:/images/1.png".'


def read_json(path: Path, what: str = "JSON file", remedy: str = "", most: int = MOST) -> Any:
    """Return the value in a JSON file. Raises UserError; see `read_text` and `parse_json`."""
    return parse_json(read_text(path, what, most), str(path), remedy)


def read_object(path: Path, what: str = "JSON file", remedy: str = "", most: int = MOST) -> dict[str, Any]:
    """Return the object in a JSON file. Raises UserError; see `read_text` and `parse_object`."""
    return parse_object(read_text(path, what, most), str(path), remedy)


def parse_object(text: str, where: str, remedy: str = "", finite: bool = True) -> dict[str, Any]:
    """Return the object in a JSON text. Raises UserError, also for another value; see `parse_json`."""
    value = parse_json(text, where, remedy, finite)
    if not isinstance(value, dict):
        raise UserError(f"{where}: expected a JSON object, {{...}}, but it holds {shown(value)}.{_behind(remedy)}")
    return value


def parse_json(text: str, where: str, remedy: str = "", finite: bool = True) -> Any:
    """Return the value in a JSON text.

    Raises UserError, which begins with `where` and ends with `remedy` unless a better remedy is known.
    `finite`: refuse NaN and Infinity, which are not JSON but which Python writes.
    """
    value = parse_unlimited(text, where, remedy)
    check_limits(value, where, finite)
    return value


def parse_unlimited(text: str, where: str, remedy: str = "") -> Any:
    """Do as `parse_json` without its limits, for another program's file, whose values are only inspected."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: not valid JSON: {error}.{_backslash(error) or _behind(remedy)}") from None
    except RecursionError:
        raise UserError(f"{where}: not valid JSON: its values are nested too deeply.{_behind(remedy)}") from None
    except ValueError:
        raise UserError(f"{where}: not valid JSON: a number has thousands of digits.{_behind(remedy)}") from None


def parse_lines(text: str, where: str, remedy: str = "", finite: bool = True) -> Iterator[tuple[str, Any]]:
    """Yield (where, value) of each line of a .jsonl text; blank lines are skipped. Raises UserError."""
    for number, line in enumerate(text.split("\n"), 1):  # splitlines cuts at U+2028 and U+0085 too
        if line.strip():
            yield f"{where}, line {number}", parse_json(line, f"{where}, line {number}", remedy, finite)


def shown(value: Any) -> str:
    """Return a value as messages quote it: JSON of a few characters."""
    return shorten(json.dumps(value, ensure_ascii=False))


def _behind(remedy: str) -> str:
    return f" {remedy.strip()}" if remedy else ""


def _backslash(error: json.JSONDecodeError) -> str:
    """Return a remedy if the JSON is wrong because of a single backslash, as in Windows paths, else ""."""
    return f" {PATH_REMEDY}" if "escape" in str(error) else ""

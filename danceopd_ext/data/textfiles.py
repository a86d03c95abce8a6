"""Files that a person wrote: where they are, and their text."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from ..errors import MissingFile, UserError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROMPT_SUFFIXES = (".txt", ".csv", ".jsonl")
"""What prompt files end in."""

PATH_REMEDY = 'In JSON write paths with / or with two backslashes: "C:/images/1.png".'


def find_path(path: str | os.PathLike, base: Path | None = None) -> Path:
    """Return `path` as it is where that exists, otherwise below the folder `base`.

    sd-scripts takes relative paths from the working directory; a path relative to the file that mentions it works too.
    """
    # os.path: what is no path at all (too long, an unknown ~user) is not there, and whoever opens it says so
    found = Path(os.path.expanduser(path))
    if base is None or found.is_absolute() or os.path.exists(found) or not os.path.exists(base / found):
        return found
    return base / found


def find_beside(path: str, folder: Path) -> Path:
    """Return `path` below `folder` where that exists, otherwise as it is where that exists, otherwise below `folder`.

    For pictures that a prompt file names: the file and its pictures belong together, and a file of the same name that
    happens to lie in the working directory is another picture.
    """
    found = Path(os.path.expanduser(path))  # os.path: see find_path
    beside = folder / found
    return found if os.path.exists(found) and not os.path.exists(beside) else beside


def breaks(path: str) -> bool:
    """Whether a line break or a tab is in it: what TOML and JSON make of "C:\\new" and "C:\\trained"."""
    return any(character in path for character in "\b\t\n\f\r")


def unquoted(text: str) -> str:
    """Return a path without blanks around it, and without the quotes that Explorer's "Copy as path" puts there."""
    text = text.strip()
    return text[1:-1].strip() if len(text) > 1 and text[0] == text[-1] == '"' else text


def backslash_hint(error: json.JSONDecodeError) -> str:
    """Return a remedy where a single backslash is what is wrong with the JSON, as in Windows paths, else ""."""
    return f" {PATH_REMEDY}" if "escape" in str(error) else ""


def parse_json(text: str, where: str, remedy: str = "") -> Any:
    """Return the value that a JSON text holds. Raises UserError, which begins with `where`, and ends with `remedy`
    where no remedy is known that fits better."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: not valid JSON: {error}.{backslash_hint(error) or remedy}") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets thousands deep
        raise UserError(f"{where}: not valid JSON: {error}.") from None


def parse_toml(text: str, where: str, example: str) -> dict[str, Any]:
    """Return the tables of a TOML text. Raises UserError; `example` shows how a Windows path is written in it."""
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # TOMLDecodeError is a ValueError; others: see parse_json
        hint = ""
        if "\\" in text and any(word in str(error).lower() for word in ("escape", "backslash", "hex")):
            hint = f" Write Windows paths in single quotes: {example}."
        raise UserError(f"{where}: not valid TOML: {error}.{hint}") from None


def read_text(path: Path, what: str) -> str:
    """Return the text of a UTF-8 file, with or without a byte order mark, line ends as `\\n`.

    `what` says in messages what the file is, for example "prompt file". Raises MissingFile, and UserError when it is a
    folder, cannot be read or is not UTF-8.
    """
    if os.path.isdir(path):
        raise UserError(f"{path}: expected a {what}, but this is a folder.")
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        message = f"{path}: {what} not found. Check the path (the current folder is {Path.cwd()})."
        raise MissingFile(message, path) from None
    except OSError as error:
        raise UserError(f"{path}: the {what} cannot be read: {error.strerror or error}.") from None
    except ValueError as error:  # a null character in the name
        raise UserError(f"{str(path)!r}: the {what} cannot be read: {error}. Check the path.") from None
    try:
        text = data.decode("utf-8-sig")
        wrong = data.find(b"\0")  # valid UTF-8, but no text: UTF-16 without a byte order mark, or another kind of file
    except UnicodeDecodeError as error:
        text, wrong = "", error.start
    if wrong >= 0:
        line = data.count(b"\n", 0, wrong) + 1
        wide = data[:2] in (b"\xff\xfe", b"\xfe\xff") or data.count(b"\0", 0, 200) > len(data[:200]) // 3
        guess = " (it looks like UTF-16)" if wide else f" (line {line})"
        raise UserError(f"{path}: the {what} is not UTF-8{guess}. Save it again with the encoding UTF-8.")
    return text.replace("\r\n", "\n").replace("\r", "\n")

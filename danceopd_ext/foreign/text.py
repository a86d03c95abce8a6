"""Reads text files: UTF-8, with or without a byte order mark."""

from __future__ import annotations

import codecs
from pathlib import Path

from danceopd_ext.errors import UserError
from danceopd_ext.foreign.files import MIB, read_bytes

#: the most bytes of a text file; a million prompts have fewer
MOST = 256 * MIB

#: byte order marks of other encodings; UTF-32's little-endian one begins like UTF-16's
_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


def read_text(path: Path, what: str, most: int = MOST) -> str:
    r"""Return the text of a UTF-8 file, with or without a byte order mark, line ends as `\n`.

    `what` says in messages what the file is, for example "prompt file"; `most` is its largest size in bytes. Raises
    MissingFile, and UserError when it is not an ordinary file, larger, cannot be read or is not UTF-8.
    """
    data = read_bytes(path, what, most)
    try:
        text = data.decode("utf-8-sig")
        wrong = data.find(b"\0")  # valid UTF-8, but not text: UTF-16 without a byte order mark, or another type of file
    except UnicodeDecodeError as error:
        text, wrong = "", error.start
    if wrong >= 0:
        name = _encoding(data)
        line = data.count(b"\n", 0, wrong) + 1
        guess = f" (it looks like {name})" if name else f" (line {line})"
        raise UserError(f"{path}: the {what} is not UTF-8{guess}. Save it again as UTF-8.")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _encoding(data: bytes) -> str:
    """Return the encoding that the data seems to have, or ""."""
    marked = next((name for mark, name in _MARKS.items() if data.startswith(mark)), "")
    head = data[:200]
    return marked or ("UTF-16" if head.count(b"\0") > len(head) // 3 else "")

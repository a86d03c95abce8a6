"""Reads the tensor names of a GGUF file, within limits.

gguf's own reader believes the lengths in a file: one that states a list of 2**60 values keeps it busy for ever. So the
header is walked here first, and a file that passes is safe to give to that reader.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

from danceopd_ext.errors import UserError, printable, shorten
from danceopd_ext.foreign.files import check_file
from danceopd_ext.foreign.tensors import LONGEST_NAME, MOST_AXES, MOST_TENSORS

#: versions of the format that gguf's reader knows
VERSIONS = (2, 3)
#: the most values of a header, list entries included, and bytes of a text in it; image models have a dozen short ones
MOST_VALUES, LONGEST_TEXT = 100_000, 2**20
#: type of a value -> its bytes
SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
TEXT, LIST = 8, 9


class _Wrong(Exception):
    """What is wrong with the file."""


def read_gguf_names(path: Path) -> list[str]:
    """Return the tensor names of a GGUF file. Raises UserError if it is damaged or beyond the limits."""
    size = check_file(path, "checkpoint").st_size
    try:
        with open(path, "rb") as file:
            return _Walk(file, size).names()
    except OSError as error:
        raise UserError(f"{path}: the checkpoint cannot be read: {error.strerror or error}.") from None
    except _Wrong as error:
        why = printable(shorten(str(error), 200))
        raise UserError(
            f"{path} is not a complete GGUF file ({why}; {size:,} bytes): download or copy it again."
        ) from None


class _Walk:
    """Walks through a header of a file of `size` bytes, once."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file, self.size, self.values = file, size, 0

    def names(self) -> list[str]:
        if self._bytes(4) != b"GGUF":
            raise _Wrong("it does not begin with GGUF")
        if (version := self._number(4)) not in VERSIONS:
            raise _Wrong(f"its version is {version}")
        tensors, values = self._number(8), self._number(8)
        if tensors > MOST_TENSORS:
            raise _Wrong(f"it has {tensors:,} tensors, and at most {MOST_TENSORS:,} are read")
        self._count(values)
        for _ in range(values):
            self._text(LONGEST_TEXT)
            self._value(self._number(4))
        return [self._tensor() for _ in range(tensors)]

    def _tensor(self) -> str:
        name = self._text(LONGEST_NAME).decode("utf-8", "replace")
        axes = self._number(4)
        if axes > MOST_AXES:
            raise _Wrong(f"{name} has {axes} axes")
        self._bytes(8 * axes + 4)  # sizes and number format
        if self._number(8) > self.size:
            raise _Wrong(f"{name} lies behind the end of the file")
        return name

    def _value(self, kind: int, nested: bool = False) -> None:
        if kind == TEXT:
            self._text(LONGEST_TEXT)
        elif kind in SIZES:
            self._bytes(SIZES[kind])
        elif kind == LIST and not nested:
            inner, length = self._number(4), self._number(8)
            self._count(length)
            for _ in range(length):
                self._value(inner, nested=True)
        else:
            raise _Wrong(f"a value in it is of the unknown type {kind}")

    def _count(self, values: int) -> None:
        self.values += values
        if self.values > MOST_VALUES:
            raise _Wrong(f"it has more than {MOST_VALUES:,} values")

    def _text(self, most: int) -> bytes:
        if (length := self._number(8)) > most:
            raise _Wrong(f"a text in it has {length:,} bytes, and at most {most:,} are read")
        return self._bytes(length)

    def _number(self, size: int) -> int:
        return struct.unpack("<I" if size == 4 else "<Q", self._bytes(size))[0]

    def _bytes(self, count: int) -> bytes:
        found = self.file.read(count)
        if len(found) < count:
            raise _Wrong("its end is missing")
        return found

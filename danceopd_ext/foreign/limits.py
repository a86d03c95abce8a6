"""Checks that a value from a TOML or JSON text is within limits: its depth, its numbers and its texts."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any

from danceopd_ext.errors import UserError, shorten

#: levels of lists and tables; Python's recursive functions can handle this depth from anywhere
DEEPEST = 128
#: whole numbers: the largest in a file are seeds, which have 64 bits
SMALLEST, LARGEST = -(2**63), 2**64 - 1

_NO_TEXT = re.compile("[\0\ud800-\udfff]")


def check_limits(value: Any, where: str, finite: bool = True) -> None:
    """Raise UserError, which begins with `where` and names the key, for a value beyond the limits.

    These are DEEPEST, SMALLEST and LARGEST; floats are finite (unless `finite` is False), and no text or key has a null
    character or half a surrogate pair, which cannot be written to a file.
    """
    waiting: list[tuple[Any, tuple]] = [([value], ())]  # the value is the only entry of a list without a name
    while waiting:
        holder, trail = waiting.pop()
        if len(trail) > DEEPEST:
            raise UserError(
                f"{where}: {_place(trail[1:])} is nested more than {DEEPEST} levels deep. Is it the right file?"
            )
        for key, entry in holder.items() if isinstance(holder, dict) else enumerate(holder):
            if isinstance(entry, dict | list):
                waiting.append((entry, (*trail, key)))
            if wrong := _wrong_text(key) or _wrong(entry, finite):
                raise UserError(f"{where}: {_place((*trail, key)[1:])}{wrong}.")


def _wrong(value: Any, finite: bool) -> str:
    """Return what is wrong with a value that contains no others, or ""."""
    if isinstance(value, int):
        return "" if SMALLEST <= value <= LARGEST else " is a whole number of more than 64 bits; write a smaller one"
    if isinstance(value, float):
        return "" if math.isfinite(value) or not finite else f" = {value}: must be a finite number"
    return _wrong_text(value)


def _wrong_text(value: Any) -> str:
    found = isinstance(value, str) and not value.isprintable() and _NO_TEXT.search(value)
    if not found:
        return ""
    what = "a null character" if found[0] == "\0" else f"half a character, \\u{ord(found[0]):04x}"
    return f" has {what} at position {found.start() + 1}; remove it"


def _place(trail: Iterable[str | int]) -> str:
    """Return the keys that lead to a value, as `datasets[0].resolution`."""
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in trail).removeprefix(".")
    return shorten(text) or "its value"

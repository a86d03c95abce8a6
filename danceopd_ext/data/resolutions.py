"""Parses the sizes of pictures in a `resolution` key."""

from __future__ import annotations

from danceopd_ext.errors import UserError
from danceopd_ext.ranges import PIXELS, SHOWN_DIGITS, written

Size = tuple[int, int]
"""Width and height in pixels."""

_FORMS = 'write an integer (1024), "width,height" ("1024,768"), [width, height], or a list of these for several sizes'


def parse_resolution(value: object, where: str) -> tuple[Size, ...]:
    """Return the sizes (width, height in pixels) that a `resolution` key stands for.

    Accepts what sd-scripts accepts (1024, "1024", "1024,768", [1024, 768]) and, as an extension, a list of those:
    [[1024, 768], [768, 1024]]. `where` names file and key in messages. Raises UserError for anything else.
    """
    if isinstance(value, list | tuple) and value and not _is_pair(value):
        sizes = [_one_size(one, where) for one in value]
    else:
        sizes = [_one_size(value, where)]
    return tuple(dict.fromkeys(sizes))


def _is_pair(value: list | tuple) -> bool:
    return len(value) == 2 and all(_is_int(side) for side in value)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _one_size(value: object, where: str) -> Size:
    sides: list[int] | None = None
    if _is_int(value):
        sides = [value, value]
    elif isinstance(value, list | tuple) and _is_pair(value):
        sides = list(value)
    elif isinstance(value, str):
        words = [word.strip() for word in value.split(",")]
        if len(words) in (1, 2) and all(word.isdecimal() and len(word) <= SHOWN_DIGITS for word in words):
            sides = [int(words[0]), int(words[-1])]
    if sides is None or min(sides) < PIXELS.minimum:
        raise UserError(f"{where}: {written(value)} is not a size in pixels; {_FORMS}.")
    if wrong := PIXELS.wrong(max(sides)):
        raise UserError(f"{where}: {written(value)}: a side in pixels {wrong}.")
    return sides[0], sides[1]

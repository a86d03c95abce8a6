"""Reads whole numbers of the command line, within limits."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from danceopd_ext.errors import shorten
from danceopd_ext.ranges import SHOWN_DIGITS, Range, shown


def whole(within: Range, example: int = 4) -> Callable[[str], int]:
    """Return a reader of whole numbers in this range for argparse, which adds the option's name to errors."""

    def number(text: str) -> int:
        digits = text.removeprefix("-")
        is_number = digits.isdecimal() and digits.isascii() and len(digits) <= SHOWN_DIGITS
        if not is_number or int(text) < within.minimum:
            what = f"is not a whole number of at least {shown(within.minimum)}: give one, such as {example}."
            raise argparse.ArgumentTypeError(f"{shorten(text)} {what}")
        if wrong := within.wrong(int(text)):
            raise argparse.ArgumentTypeError(f"{text}: it {wrong}.")
        return int(text)

    return number


#: reads a whole number from 1, for options without a limit of their own
positive = whole(Range(minimum=1, maximum=10**9))

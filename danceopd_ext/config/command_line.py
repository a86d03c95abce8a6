"""Splits a command line of preset keys into the words of each key."""

from __future__ import annotations

from collections.abc import Sequence

from danceopd_ext.errors import UserError


def split_flags(arguments: Sequence[str]) -> dict[str, list[str]]:
    """Return key -> the words that follow it: `--key word word` or `--key=word`; the preset decides what they mean.

    Raises UserError for a word before the first key, and for an option with one dash.
    """
    values: dict[str, list[str]] = {}
    name = ""
    for word in arguments:
        if word.startswith("--"):
            name, sign, value = word[2:].partition("=")
            name = name.replace("-", "_")
            values[name] = [value] if sign else []
        elif not name or is_short_option(word):
            like = f' To give a value that begins with a dash, write --{name}="{word}".' if name else ""
            raise UserError(f'unexpected "{word}": write arguments as --name value.{like}')
        else:
            values[name].append(word)
    return values


def is_short_option(word: str) -> bool:
    """Whether the word looks like -v or -lr and not like a value such as -1, -0.5 or -inf."""
    return word.startswith("-") and word[1:2].isalpha() and word.lower() not in ("-inf", "-nan")

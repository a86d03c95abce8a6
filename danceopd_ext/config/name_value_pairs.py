"""Parses the name=value texts of optimizer_args and lr_scheduler_args."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from typing import Any

from danceopd_ext.config.toml_text import toml_text
from danceopd_ext.errors import UserError, shorten
from danceopd_ext.ranges import Range, written

#: words of TOML and of the command line, in any case; for Python the text "false" would be true
WORDS = {"true": True, "false": False, "none": None, "null": None}

#: the most characters of one text; Python's parser takes minutes and gigabytes for some long ones
LONGEST = 1000
#: arguments that mean the same in every optimizer or schedule -> the numbers that they take
LIMITS = {
    "weight_decay": Range(minimum=0, maximum=10, usual="usual values are 0 to 0.1"),
    "betas": Range(minimum=0, below=1, usual="usual values are 0.9,0.99 and 0.9,0.999"),
    "momentum": Range(minimum=0, below=1, usual="the usual value is 0.9"),
    "eps": Range(minimum=0, maximum=1, usual="the usual value is 1e-8"),
    "d0": Range(above=0, maximum=1, usual="the usual value is 1e-6"),
    "d_coef": Range(above=0, maximum=1000, usual="usual values are 0.5 to 2"),
    "min_lr_rate": Range(minimum=0, maximum=1, usual="usual values are 0 to 0.1"),
}
#: numbers of all other arguments
ANY = Range(minimum=-1e9, maximum=1e9)


def parse_pairs(pairs: Iterable[str], key: str) -> dict[str, Any]:
    """Parse `["betas=0.9,0.99", "decouple=true"]` into {"betas": (0.9, 0.99), "decouple": True}; skip empty texts.

    `key`: the user's name of the list. Raises UserError, which names the wrong text and how to write it.
    """
    pairs, found = [pair for pair in pairs if pair.strip()], {}
    if long := next((pair for pair in pairs if len(pair) > LONGEST), None):
        raise UserError(
            f'{key}: "{shorten(long)}" has {len(long):,} characters. Write name=value in {LONGEST:,} or less.'
        )
    if slips := [pair for pair in pairs if pair.rstrip().endswith(",")]:
        right = toml_text([pair.strip().rstrip(", ") for pair in slips])
        raise UserError(f"{key}: {_quoted(slips)}: remove the comma at the end. Write {right}.")
    for pair in pairs:
        name, sign, text = pair.partition("=")
        name = name.strip()
        if not sign:
            raise UserError(f'{key}: "{pair}" must have the form name=value.')
        if name in found:
            raise UserError(f"{key}: {name} is given twice. Remove one.")
        found[name] = _value(name, text.strip(), key, pair)
        _check_numbers(name, found[name], key)
    return found


def python_pairs(pairs: Iterable[str], key: str) -> list[str]:
    """Return the same texts with true, false and none as Python writes them, for the toolkits. Raises UserError."""
    found = parse_pairs(pairs, key)
    texts = {pair.partition("=")[0].strip(): pair for pair in pairs}
    return [
        f"{name}={value}" if _word(texts[name].partition("=")[2]) in WORDS else texts[name]
        for name, value in found.items()
    ]


def _value(name: str, text: str, key: str, pair: str) -> Any:
    if _word(text) in WORDS:
        return WORDS[_word(text)]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        pass
    if "=" in text:
        parts = toml_text([part.strip(", ") for part in pair.split()])
        raise UserError(f'{key}: "{pair}" holds more than one argument: write each as a separate text, {parts}.')
    if not text:
        raise UserError(f'{key}: "{pair}" has no value: give {name} one, or remove it.')
    raise UserError(
        f'{key}: "{pair}": {text} is not a number, true, false, none, or several of these separated by commas. '
        f"If you mean a text, quote it: {name}='{text}'."
    )


def _check_numbers(name: str, value: Any, key: str) -> None:
    """Raise UserError for a number, alone or in a list, that no optimizer or schedule can use."""
    for number in value if isinstance(value, (tuple, list)) else [value]:
        is_number = isinstance(number, (int, float)) and not isinstance(number, bool)
        if is_number and (wrong := LIMITS.get(name, ANY).wrong(number)):
            raise UserError(f"{key}: {name} = {written(value)}: {wrong}.")


def _word(text: str) -> str:
    return text.strip().lower()


def _quoted(texts: list[str]) -> str:
    return " and ".join(f'"{text}"' for text in texts)

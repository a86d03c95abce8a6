"""Converts one argument of a toolkit, from the preset or the command line, as the toolkit's own parser would."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

from danceopd_ext.errors import nearest

#: how many choices a message names
MOST_CHOICES = 12


class WrongValue(Exception):
    """An argument has a wrong value; the text says what it takes."""


def takes_several(action: argparse.Action) -> bool:
    """Return whether the argument's value is a list."""
    return action.nargs not in (None, "?", 0)


def is_switch(action: argparse.Action) -> bool:
    """Return whether the argument has no value on the command line."""
    return action.nargs == 0


def can_be_given(action: argparse.Action) -> bool:
    """Return whether a preset can set the argument; `--help` and similar ones only work on the command line."""
    # argparse has no public names for these classes
    return isinstance(action, (argparse._StoreAction, argparse._StoreConstAction, argparse.BooleanOptionalAction))


def from_toml(action: argparse.Action, name: str, value: Any) -> Any:
    """Return a preset's value for the argument `name`. Raises WrongValue."""
    if is_switch(action):
        if not isinstance(value, bool):
            raise WrongValue("takes true or false." + _unquote(value, ("true", "false")))
        return _switched(action, name, value)
    if takes_several(action):
        items = value if isinstance(value, list) else [value]
        return _counted(action, [_checked(action, _typed(action, one)) for one in items])
    if isinstance(value, list):
        raise WrongValue("takes a single value, not a list.")
    return _checked(action, _typed(action, value))


def from_words(action: argparse.Action, name: str, words: Sequence[str]) -> Any:
    """Return the value of the words after this flag on the command line. Raises WrongValue."""
    if is_switch(action):
        if len(words) > 1 or (words and words[0].lower() not in ("true", "false")):
            raise WrongValue(f"is a switch: write --{name}, or --{name} false.")
        return _switched(action, name, not words or words[0].lower() == "true")
    if takes_several(action):
        return _counted(action, [_checked(action, _spoken(action, word)) for word in words])
    if not words and action.nargs == "?":
        return action.const
    if not words:
        raise WrongValue(f"needs a value: write --{name} VALUE.")
    if len(words) > 1:
        raise WrongValue(f"takes one value, not {len(words)}: put a value with spaces in quotes.")
    return _checked(action, _spoken(action, words[0]))


def shown(value: Any) -> str:
    """Return a value as TOML."""
    if isinstance(value, PurePath):
        value = str(value)
    if isinstance(value, (str, bool)):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(shown(one) for one in value) + "]"
    return str(value)


def _switched(action: argparse.Action, name: str, on: bool) -> Any:
    """Return what a switch stores. A switch `--no_x` for x is on if the preset says no_x = true, or x = false."""
    if isinstance(action, argparse.BooleanOptionalAction):
        return on != (name.startswith("no_") and name != action.dest)
    if not isinstance(action.const, bool):
        return action.const if on else action.default
    if name == action.dest:
        return on
    return action.const if on else not action.const


def _typed(action: argparse.Action, value: Any) -> Any:
    """Return a TOML value as the argument's type. If that is a function of text, it gets the text."""
    kind = action.type or str
    if kind is bool:
        if not isinstance(value, bool):
            raise WrongValue("takes true or false." + _unquote(value, ("true", "false")))
        return value
    if kind in (int, float):
        return _number(kind, value)
    if kind is str or (isinstance(kind, type) and issubclass(kind, PurePath)):
        if not isinstance(value, str):
            raise WrongValue(f"takes text: write {shown(str(shown(value)))}.")
        return kind(value)
    result = _spoken(action, shown(value) if isinstance(value, bool) else str(value))
    if isinstance(value, bool) != isinstance(result, bool) and not isinstance(value, str):
        raise WrongValue("takes true or false." if isinstance(result, bool) else "does not take true or false.")
    return result


def _number(kind: type, value: Any) -> Any:
    wanted = "takes a whole number." if kind is int else "takes a number."
    if isinstance(value, str):
        try:
            kind(value)
        except ValueError:
            raise WrongValue(wanted) from None
        raise WrongValue(f"{wanted} Write it without quotes.")
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise WrongValue(wanted)
    if kind is int and isinstance(value, float):
        raise WrongValue(f"{wanted} Write {int(value)}." if value.is_integer() else wanted)
    return kind(value)


def _spoken(action: argparse.Action, word: str) -> Any:
    """Return a word of the command line as the argument's type, as argparse does."""
    kind = action.type or str
    if kind is bool:
        if word.lower() not in ("true", "false"):
            raise WrongValue("takes true or false.")
        return word.lower() == "true"
    try:
        return kind(word)
    except argparse.ArgumentTypeError as error:
        raise WrongValue(f"cannot be read: {error}.") from None
    except (TypeError, ValueError):
        names = {int: "a whole number", float: "a number"}
        raise WrongValue(f"takes {names[kind]}." if kind in names else "cannot be read.") from None


def _checked(action: argparse.Action, value: Any) -> Any:
    """Return the value if it is one of the argument's choices. Raises WrongValue."""
    if action.choices is None or value in action.choices:
        return value
    choices = [choice for choice in action.choices if choice is not None]
    listed = ", ".join(shown(choice) for choice in choices[:MOST_CHOICES]) + (", ..." * (len(choices) > MOST_CHOICES))
    close = nearest(value, [str(choice) for choice in choices]) if isinstance(value, str) else ""
    raise WrongValue(f"takes one of {listed}.{close}")


def _counted(action: argparse.Action, items: list) -> list:
    """Return the list if it has the argument's length. Raises WrongValue."""
    if action.nargs == "+" and not items:
        raise WrongValue("needs at least one value.")
    if isinstance(action.nargs, int) and len(items) != action.nargs:
        raise WrongValue(f"takes {action.nargs} values, not {len(items)}.")
    return items


def _unquote(value: Any, words: Sequence[str]) -> str:
    return " Write it without quotes." if isinstance(value, str) and value.lower() in words else ""

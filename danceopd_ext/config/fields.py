"""Defines a preset key in one place: its type, default, allowed values and the sentence that explains it."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Literal, Union

from danceopd_ext.config.model_types import explain_model_type
from danceopd_ext.config.toml_text import toml_text
from danceopd_ext.config.toolkits import NATIVE
from danceopd_ext.errors import UserError, nearest
from danceopd_ext.ranges import Range, written

#: texts that mean that a key is not set: GUIs write them for empty fields
NOT_SET = ("", "none", "null")


def key(
    default: Any,
    help: str,
    *,
    within: Range | None = None,
    path: Literal["", "found", "made"] = "",
    zero: Literal["", "unset", "wrong"] = "",
    meant: dict[str, str] | None = None,
):
    """Return a dataclass field that is a preset key.

    within: the numbers that it accepts; every key for numbers has a range with two ends. path: "found" is a file or
    folder that is looked up from the current directory, then from the preset's folder; "made" is a folder that the run
    creates. zero: what 0 means if it cannot be a value, "unset" or "wrong"; by default it is unset if None is a value,
    else wrong. meant: words of other programs -> the value to use instead, or "" if there is none.
    """
    metadata = {"help": help, "within": within or Range(), "zero": zero, "path": path, "meant": meant or {}}
    if isinstance(default, (list, dict)):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def one_of(words: Iterable[str]) -> Any:
    """Return the type of a key that takes one of these words, which another part of the project defines."""
    return Literal[tuple(words)]


def key_types(cls: type) -> dict[str, Any]:
    """Return key -> resolved type annotation of a section."""
    return typing.get_type_hints(cls)


def type_name(annotation: Any) -> str:
    """Return the name of a key's type for messages and presets/README.md."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (Union, types.UnionType):
        return " or ".join(type_name(a) for a in arguments if a is not type(None))
    if origin is Literal:
        return " \\| ".join(f'"{a}"' for a in arguments)
    if origin is list:
        return f"list of {type_name(arguments[0])}"
    if origin is dict:
        return f"table of {type_name(arguments[1])}"
    names = {str: "string", int: "integer", float: "number", bool: "true/false"}
    return names.get(annotation, getattr(annotation, "__name__", str(annotation)))


def is_unset(value: Any, annotation: Any, metadata: Mapping[str, Any]) -> bool:
    """Return whether the value means that the key is not set: an empty text, None, or 0 if 0 cannot be a value."""
    if value is None:
        return True
    if isinstance(value, str):
        word = value.strip().lower()
        return not word or (word in NOT_SET and annotation is not str)
    optional = type(None) in typing.get_args(annotation)
    within = metadata["within"]
    positive = (within.minimum or 0) > 0 or within.above is not None
    unset = {"unset": True, "wrong": False}.get(metadata.get("zero", ""), optional and positive)
    return type(value) in (int, float) and value == 0 and unset


def given(values: Mapping[str, Any], cls: type) -> dict[str, Any]:
    """Return the keys of the section that are set, without empty texts in lists."""
    types_of, found = key_types(cls), {}
    for field in dataclasses.fields(cls):
        value = values.get(field.name)
        if not is_unset(value, types_of[field.name], field.metadata):
            found[field.name] = [one for one in value if one != ""] if isinstance(value, list) else value
    return found


def convert(name: str, value: Any, annotation: Any, meant: Mapping[str, str] | None = None) -> Any:
    """Return `value` as the key's type. Raises UserError, which names the key, its type and the value.

    `meant`: see `key`.
    """
    result = _convert(value, annotation)
    if result is not _WRONG:
        return result
    wanted = type_name(annotation).replace("\\|", "or")
    hint = ""
    if name == "model_type" and isinstance(value, str):
        hint = explain_model_type(value, NATIVE.name)
    elif words_taken(annotation) and isinstance(value, str):
        hint = right_word(value, annotation, meant)
    elif annotation == list[str] and isinstance(value, str):
        hint = f" Write {name} = {toml_text(value.split())}."
    elif isinstance(value, str) and any(_convert(v, annotation) is not _WRONG for v in _unquoted(value)):
        hint = " Write it without quotes."
    raise UserError(f"{name} = {written(value)}: this key takes {wanted}.{hint}")


def right_word(word: str, annotation: Any, meant: Mapping[str, str] | None = None, alike: float = 0.5) -> str:
    """Return a hint at the right word for a key that takes certain words, or "". `alike`: see errors.nearest."""
    options = words_taken(annotation)
    if (right := (meant or {}).get(word.lower())) is None:
        return nearest(word, options, alike)
    return f' Did you mean "{right}"?' if right else ""


def words_taken(annotation: Any) -> tuple[str, ...]:
    """Return the words of a key that takes certain words, or none and these; empty for other keys."""
    kinds = [annotation, *typing.get_args(annotation)]
    return next((typing.get_args(kind) for kind in kinds if typing.get_origin(kind) is Literal), ())


def _unquoted(text: str) -> list[Any]:
    """Return the values that a quoted TOML value may stand for."""
    try:
        number = float(text)
    except ValueError:
        return [{"true": True, "false": False}.get(text.lower(), text)]
    return [number, int(number)] if number.is_integer() else [number]


_WRONG = object()


def _convert(value: Any, annotation: Any) -> Any:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (Union, types.UnionType):
        options = [a for a in arguments if a is not type(None)]
        if value is None and type(None) in arguments:
            return None
        return next((r for a in options if (r := _convert(value, a)) is not _WRONG), _WRONG)
    if origin is Literal:
        return value if isinstance(value, str) and value in arguments else _WRONG
    if origin is list:
        return _convert_items(value, arguments[0]) if isinstance(value, list) else _WRONG
    if origin is dict:
        if not isinstance(value, dict):
            return _WRONG
        converted = {k: _convert(v, arguments[1]) for k, v in value.items()}
        return _WRONG if any(v is _WRONG for v in converted.values()) else converted
    if annotation is float and isinstance(value, int) and not isinstance(value, bool):
        return _as_float(value)
    return value if type(value) is annotation else _WRONG


def _as_float(number: int) -> float:
    """Return the number as a float; infinity, which no key accepts, if it is too large."""
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


def _convert_items(values: list, annotation: Any) -> Any:
    converted = [_convert(v, annotation) for v in values]
    return _WRONG if any(v is _WRONG for v in converted) else converted


def check_ranges(section: Any) -> None:
    """Check every number of a section dataclass against its key's range. Raises UserError that names key and limit."""
    for field in dataclasses.fields(section):
        value, within = getattr(section, field.name), field.metadata.get("within", Range())
        for number in value if isinstance(value, list) else [value]:
            is_number = isinstance(number, (int, float)) and not isinstance(number, bool)
            if is_number and (wrong := within.wrong(number)):
                raise UserError(f"{field.name} = {written(value)}: {wrong}.")

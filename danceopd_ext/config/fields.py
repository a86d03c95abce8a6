"""A preset key: its type, default, allowed values and the sentence that explains it, in one place."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from typing import Any, Literal, Union

from danceopd_ext.errors import UserError, nearest


def key(
    default: Any,
    help: str,
    *,
    minimum: float | None = None,
    above: float | None = None,
    lowest: str = "",
    path: bool = False,
):
    """A dataclass field that is a preset key.

    minimum / above: smallest allowed value / value that must be exceeded. lowest: what the
    smallest value means, for the message. path: a file or folder that is looked up
    from the current directory, then from the preset's folder.
    """
    metadata = {"help": help, "minimum": minimum, "above": above, "lowest": lowest, "path": path}
    if isinstance(default, (list, dict)):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def key_types(cls: type) -> dict[str, Any]:
    """Key -> resolved type annotation of a section."""
    return typing.get_type_hints(cls)


def type_name(annotation: Any) -> str:
    """How a key's type is called in messages and in the README."""
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


def convert(name: str, value: Any, annotation: Any) -> Any:
    """`value` as the key's type. Raises UserError that names the key, what it takes and what was given."""
    result = _convert(value, annotation)
    if result is not _WRONG:
        return result
    wanted = type_name(annotation).replace("\\|", "or")
    hint = ""
    if typing.get_origin(annotation) is Literal and isinstance(value, str):
        hint = nearest(value, typing.get_args(annotation))
    elif isinstance(value, str) and any(_convert(v, annotation) is not _WRONG for v in _unquoted(value)):
        hint = " Write it without quotes."
    raise UserError(f"{name} = {value!r}: this key takes {wanted}.{hint}")


def _unquoted(text: str) -> list[Any]:
    """What a quoted TOML value may have been meant to be."""
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
        return float(value)
    return value if type(value) is annotation else _WRONG


def _convert_items(values: list, annotation: Any) -> Any:
    converted = [_convert(v, annotation) for v in values]
    return _WRONG if any(v is _WRONG for v in converted) else converted


def check_ranges(section: Any) -> None:
    """Check every key of a section dataclass against its limits. Raises UserError."""
    for field in dataclasses.fields(section):
        value, limits = getattr(section, field.name), field.metadata
        numbers = [number for number in (value if isinstance(value, list) else [value]) if isinstance(number, float)]
        if not all(map(math.isfinite, numbers)):
            raise UserError(f"{field.name} = {value}: must be a finite number.")
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            continue
        if limits.get("minimum") is not None and not value >= limits["minimum"]:
            meaning = f"; {limits['lowest']}" if limits.get("lowest") else ""
            raise UserError(f"{field.name} = {value}: must be {limits['minimum']:g} or more{meaning}.")
        if limits.get("above") is not None and not value > limits["above"]:
            raise UserError(f"{field.name} = {value}: must be more than {limits['above']:g}.")

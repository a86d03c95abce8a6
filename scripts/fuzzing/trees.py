"""Tables of TOML and JSON files: written out, and changed in one place or a few."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator
from random import Random
from typing import Any

from fuzzing.values import Raw, Twin, odd_key, odd_text, odd_value

Place = tuple[Any, Any]
"""A table or list, and the key or index of an entry of it."""


def places(tree: Any) -> Iterator[Place]:
    """Every entry of every table and list."""
    entries = list(tree.items()) if isinstance(tree, dict) else list(enumerate(tree)) if isinstance(tree, list) else []
    for key, value in entries:
        yield tree, key
        yield from places(value)


def changed(tree: Any, rng: Random, times: int | None = None) -> tuple[Any, list[str]]:
    """A copy of the tree with one or a few changes, and what was changed, in words."""
    tree, told = copy.deepcopy(tree), []
    for _ in range(times or rng.choice((1, 1, 1, 2, 3))):
        found = list(places(tree))
        if not found or rng.random() < 0.03:
            tree = odd_value(rng)
            return tree, [*told, "the whole is another value"]
        told.append(_change(*rng.choice(found), rng))
    return tree, told


def _change(table: Any, key: Any, rng: Random) -> str:
    old, kind = table[key], rng.random()
    if kind < 0.62:
        table[key] = odd_value(rng) if rng.random() < 0.8 else near(old, rng)
        return f"{key} = {few(table[key])}"
    if kind < 0.70:
        del table[key]
        return f"without {key}"
    if kind < 0.76 and isinstance(table, dict):
        name = odd_key(rng)
        table[name] = table.pop(key)
        return f"{key} is called {few(name)}"
    if kind < 0.82 and isinstance(table, dict):
        table[Twin(key)] = rng.choice((old, odd_value(rng)))
        return f"{key} twice"
    if kind < 0.90:
        name = odd_key(rng)
        if isinstance(table, dict):
            table[name] = odd_value(rng)
        else:
            table.insert(rng.randint(0, len(table)), odd_value(rng))
        return f"one more beside {key}"
    table[key] = rng.choice(([old], {"x": old}, [old, old], [[old]], {str(key): old}))
    return f"{key} in brackets"


def near(value: Any, rng: Random) -> Any:
    """A value of the same type, at the edge of what it can be."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return rng.choice((0, -value, value + 1, value * 10**6, 2**31, 2**63, value + 0.5, str(value), -1))
    if isinstance(value, float):
        return rng.choice((0.0, -value, value * 1e30, math.nan, math.inf, str(value), 1e-45))
    if isinstance(value, str):
        cut = rng.randint(0, len(value))
        return rng.choice(
            (value[:cut], value + "\0", value * 100, value.upper(), f" {value} ", value[:cut] + odd_text(rng))
        )
    if isinstance(value, list):
        return rng.choice(([], value * 1000, value[::-1], value[:-1], [value], [*value, odd_value(rng)]))
    return {}


def few(value: Any) -> str:
    """The value, cut, without anything that a terminal does not show."""
    text = value if isinstance(value, Raw) else ascii(value)
    return text if len(text) <= 60 else f"{text[:40]}...({len(text)})"


def as_json(value: Any) -> str:
    """JSON, except for what is `Raw`."""
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(str(key))}: {as_json(entry)}" for key, entry in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(as_json, value)) + "]"
    return json.dumps(value, ensure_ascii=not (isinstance(value, str) and len(value) % 2))


def as_toml(document: Any) -> str:
    """TOML, except for what is `Raw`: a table of tables as sections, a list of tables as [[sections]]."""
    if not isinstance(document, dict):
        return _toml_value(document)
    lines: list[str] = []
    _write_table(document, (), lines)
    return "\n".join(lines) + "\n"


def _write_table(table: dict, path: tuple[str, ...], lines: list[str]) -> None:
    later = []
    for key, value in table.items():
        if isinstance(value, dict) or (isinstance(value, list) and value and all(isinstance(v, dict) for v in value)):
            later.append((key, value))
        else:
            lines.append(f"{_toml_key(key)} = {_toml_value(value)}")
    for key, value in later:
        name = ".".join(map(_toml_key, (*path, key)))
        for one in [value] if isinstance(value, dict) else value:
            lines.append(f"[{name}]" if isinstance(value, dict) else f"[[{name}]]")
            _write_table(one, (*path, key), lines)


def _toml_key(key: str) -> str:
    plain = key.isascii() and key.replace("_", "").replace("-", "").isalnum()
    return str(key) if plain else json.dumps(str(key))


def _toml_value(value: Any) -> str:
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return '""'
    if isinstance(value, float):
        return "nan" if math.isnan(value) else ("-inf" if value < 0 else "inf") if math.isinf(value) else repr(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_toml_key(key)} = {_toml_value(entry)}" for key, entry in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml_value, value)) + "]"
    return json.dumps(value)

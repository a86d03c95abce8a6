"""Writes values as TOML."""

from __future__ import annotations

import json


def toml_text(value: str | int | float | bool | list) -> str:
    r"""Return a text, number, true/false or list of them as TOML, whatever the text holds: "O'Brien\1.png".

    JSON's forms are also TOML's, with two exceptions: TOML has no surrogate pairs, and U+007F must be escaped.
    """
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")

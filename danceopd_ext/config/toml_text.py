"""Values as they stand in a TOML file that we write."""

from __future__ import annotations

import json


def toml_text(value: str | int | float | bool | list) -> str:
    """Return a text, number, true/false or list of them as TOML, whatever the text holds: "O'Brien\\1.png".

    JSON's forms are TOML's too, but for two: TOML has no pairs of surrogates, and wants U+007F escaped.
    """
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")

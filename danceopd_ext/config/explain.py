"""Writes the tables of preset keys in presets/README.md from the schema (`python -m danceopd_ext.config.explain`)."""

from __future__ import annotations

import dataclasses
from typing import Any

from danceopd_ext.config.fields import key_types, type_name
from danceopd_ext.config.load import TABLES
from danceopd_ext.config.schema import SECTIONS, Teacher


def explain() -> str:
    """Return Markdown with a table for each section and a row for each key."""
    parts = [_table(f"[{name}]", cls) for name, cls in SECTIONS.items()]
    parts.append(_table("[danceopd.teachers.NAME]", Teacher))
    parts.append(
        '`[danceopd.prompts]` `NAME = "prompts.txt"` (or a list of files: .txt with one prompt per line, .csv, '
        ".jsonl) and "
        "`[danceopd.routes]` `NAME = 1.0` (how often the route is drawn; all equal by default) each name a teacher. "
        "With musubi-tuner, so does `[danceopd.datasets]` `NAME = 1` (which `[[datasets]]` entry of the dataset file "
        "is "
        "this teacher's: its number from 1, its cache_directory, image_directory or image_jsonl_file, or a list)."
    )
    return "\n\n".join(parts) + "\n"


def _table(title: str, cls: type) -> str:
    annotations = key_types(cls)
    rows = [f"**{title}** {' '.join((cls.__doc__ or '').split())}", "", "| key | type | default | meaning |"]
    rows.append("|---|---|---|---|")
    for field in dataclasses.fields(cls):
        if field.name in TABLES:
            continue
        kind = type_name(annotations[field.name])
        rows.append(f"| `{field.name}` | {kind} | {_default(field)} | {field.metadata['help']} |")
    return "\n".join(rows)


def _default(field: dataclasses.Field) -> str:
    value: Any = field.default_factory() if field.default is dataclasses.MISSING else field.default
    if value is None or value == "" or value == []:
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


if __name__ == "__main__":
    print(explain(), end="")

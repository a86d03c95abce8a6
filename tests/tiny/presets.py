"""Presets for tiny runs, written as a creator writes them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from danceopd_ext.config.load import TABLES, flat_keys

#: a run of seconds on one core
SMALL = {
    "resolution": 16,
    "network_dim": 4,
    "optimizer_type": "AdamW",
    "learning_rate": 1e-2,
    "max_train_steps": 4,
    "train_batch_size": 1,
    "gradient_accumulation_steps": 2,
    "mixed_precision": "no",
    "seed": 7,
    "save_precision": "float",
    "output_name": "fused",
    "rollout_steps": 4,
}


def write_preset(folder: Path, model: Path, teachers: Mapping[str, Mapping], **keys: object) -> Path:
    """`folder`/preset.toml: SMALL with `keys` (None leaves one out), and prompts for every teacher.

    `prompts` and `routes` in `keys` are the tables of [danceopd]; by default each teacher has a prompt file of its own.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tables = {"teachers": dict(teachers), "prompts": keys.pop("prompts", None), "routes": keys.pop("routes", {})}
    tables["datasets"] = keys.pop("datasets", {})
    if tables["prompts"] is None:
        tables["prompts"] = {name: write_prompts(folder, name, place) for place, name in enumerate(teachers)}
    values = {"pretrained_model_name_or_path": str(model), "output_dir": str(folder / "output"), **SMALL, **keys}
    sections: dict[str, dict] = {"danceopd": {}}
    for key, value in values.items():
        if value is not None:
            sections.setdefault(flat_keys()[key], {})[key] = value
    lines = []
    for section, entries in sections.items():
        lines += [f"[{section}]", *(f"{key} = {as_toml(value)}" for key, value in entries.items()), ""]
    for table in TABLES:
        for name, entry in tables[table].items():
            if table == "teachers":
                lines += [f"[danceopd.teachers.{name}]", *(f"{key} = {as_toml(v)}" for key, v in entry.items()), ""]
        if table != "teachers":
            lines += [f"[danceopd.{table}]", *(f"{name} = {as_toml(e)}" for name, e in tables[table].items()), ""]
    path = folder / "preset.toml"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def write_prompts(folder: Path, name: str, place: int) -> str:
    """Prompts that no other route has."""
    own = ("red cat", "blue river", "green tree", "old house")[place % 4]
    path = folder / f"{name}.txt"
    path.write_text("".join(f"{own} {own} {own} {more}\n" for more in ("on", "of", "big", "photo")), encoding="utf-8")
    return str(path)


def as_toml(value: object) -> str:
    return json.dumps(value) if not isinstance(value, bool) else str(value).lower()

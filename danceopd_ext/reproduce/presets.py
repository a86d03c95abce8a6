"""Writes a run as a preset of the native trainer: the settings of all rows, and a row's own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

from danceopd_ext.config.load import default_of, flat_keys
from danceopd_ext.config.toml_text import toml_text
from danceopd_ext.demo.omni_draw import PICTURE_SIZE
from danceopd_ext.demo.route_files import write_route
from danceopd_ext.reproduce.budgets import Budget
from danceopd_ext.reproduce.drawn_targets import with_drawn_targets
from danceopd_ext.reproduce.pretrained import BASE, Pretrained
from danceopd_ext.reproduce.tables import Row, Table

NAME = "student"
FIRST_SEED = 42
LEARNING_RATE = 6e-3
#: a shorter memory of squares than usual, for so short a training (in a pilot edits came out 0.95 right, not 0.92)
OPTIMIZER_ARGS = ["betas=0.9,0.98"]
#: states that are matched together: this only affects speed
MATCHED = 16
#: keys that --set may change for all rows of a table
OPTIMIZER_KEYS = ("learning_rate", "optimizer_type", "optimizer_args", "lr_scheduler", "lr_warmup_steps")


@dataclass(frozen=True)
class Run:
    """One row of a table with one seed, and its folder. Equal settings are the same run in every table.

    `values`: flat keys of the preset; `teachers`, `prompts`: tables of its [danceopd].
    """

    folder: Path
    values: Mapping[str, Any]
    teachers: Mapping[str, Mapping[str, Any]]
    prompts: Mapping[str, str]

    @property
    def lora(self) -> Path:
        return self.folder / f"{NAME}.safetensors"

    @property
    def log(self) -> Path:
        return self.folder / f"{NAME}.log.jsonl"

    def toml(self) -> str:
        """The preset file."""
        sections: dict[str, list[str]] = {}
        for key, value in self.values.items():
            sections.setdefault(flat_keys()[key], []).append(f"{key} = {toml_text(value)}")
        lines = []
        for name, entries in sorted(sections.items(), key=lambda item: item[0] == "danceopd"):
            lines += [f"[{name}]", *entries, ""]
        for name, teacher in self.teachers.items():
            lines += [f"[danceopd.teachers.{name}]", *(f"{k} = {toml_text(v)}" for k, v in teacher.items()), ""]
        lines += ["[danceopd.prompts]", *(f"{name} = {toml_text(file)}" for name, file in self.prompts.items())]
        return "\n".join(lines) + "\n"


def plan_run(row: Row, seed: int, budget: Budget, pretrained: Pretrained, out: Path) -> Run:
    """The run of a row: its folder in `out`/runs is named by a digest of everything that affects its result."""
    files = {name: pretrained.teacher(name, out / "checkpoints") for name in _pretrained_of(row)}
    prompts = {route: _data(route, row, budget, pretrained, out / "data") for route in row.teachers}
    teachers = {
        route: {key: str(files.get(value, value)) if key in ("lora", "checkpoint") else value
                for key, value in teacher.items()}
        for route, teacher in row.teachers.items()
    }  # fmt: skip
    values = _values(row, seed, budget)
    decides = {
        "values": values,
        "teachers": {route: dict(teacher) for route, teacher in row.teachers.items()},
        "start": row.start,
        "full_rollout": row.full_rollout,
        "sources": {name: pretrained.digest(name) for name in (BASE, *files)},
        "data": budget.examples,
        **({"targets": budget.targets} if budget.targets != "world" else {}),
    }
    digest = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:12]
    folder = out / "runs" / f"{values['method']}-{'-'.join(row.teachers)}-seed{seed}-{digest}"
    if row.start:
        values["network_weights"] = str(files[row.start])
    if row.full_rollout:
        values["early_stop"] = False
    beside = _beside(pretrained.pipeline, out / "cache", folder)
    return Run(folder, {**beside, **values}, teachers, {k: str(v) for k, v in prompts.items()})


def fixed_keys(table: Table, budget: Budget) -> set[str]:
    """Keys that a table cannot be made with another value of: the budget's, a run's own, and what its rows compare."""
    rows = [row for row in table.rows if row.teachers]
    found = {key for row in rows for key in (*_values(row, 0, budget), *_beside(Path(), Path(), Path()))}
    return found - set(OPTIMIZER_KEYS)


def _beside(pipeline: Path, cache: Path, folder: Path) -> dict[str, Any]:
    """Return flat keys that do not affect the result."""
    return {
        "pretrained_model_name_or_path": str(pipeline),
        "text_encoder_cache_dir": str(cache),
        "output_dir": str(folder),
        "match_batch_size": MATCHED,
    }


def _data(route: str, row: Row, budget: Budget, pretrained: Pretrained, folder: Path) -> Path:
    file = write_route(folder, route, budget.examples)
    if budget.targets == "world":
        return file
    return with_drawn_targets(file, row.teachers[route], pretrained, budget.rollout)


def _pretrained_of(row: Row) -> list[str]:
    found = [teacher.get("lora") or teacher.get("checkpoint") for teacher in row.teachers.values()]
    return list(dict.fromkeys(str(name) for name in (*found, row.start) if name))


def _values(row: Row, seed: int, budget: Budget) -> dict[str, Any]:
    """Return the flat keys that decide the result, without paths.

    A row's key is left out if it has its default, so that rows that mean the same are one run.
    """
    method = row.keys.get("method", "danceopd")
    values: dict[str, Any] = {
        "resolution": PICTURE_SIZE,
        "network_dim": budget.rank,
        "network_alpha": budget.rank,
        "optimizer_type": "AdamW",
        "optimizer_args": OPTIMIZER_ARGS,
        "learning_rate": LEARNING_RATE,
        "lr_scheduler": "cosine",
        "lr_warmup_steps": min(20, budget.steps // 2),
        "max_train_steps": budget.steps,
        "train_batch_size": samples_of_a_micro_batch(method, len(row.teachers), budget),
        "gradient_accumulation_steps": 1,
        "mixed_precision": "no",
        "seed": FIRST_SEED + seed if row.trained else FIRST_SEED,
        "output_name": NAME,
        "save_precision": "float",
        "save_model_as": "diffusers",
        "method": method,
        "rollout_steps": budget.rollout,
    }
    if row.trained:
        every = max(1, budget.steps // 10)
        values |= {"save_every_n_steps": every, "save_state": True, "save_last_n_steps": every}
    if method == "flowopd":
        values["flowopd_group_size"] = budget.group
    return {**values, **{key: value for key, value in row.keys.items() if key in values or value != default_of(key)}}


def samples_of_a_micro_batch(method: object, routes: int, budget: Budget) -> int:
    """So many that a step has `budget.samples` in all, also where a step has all routes, or groups of trajectories.

    Where the routes do not divide them DiffusionOPD has up to one more for each: rather more than others than less.
    """
    if method == "diffusionopd":
        return ceil(budget.samples / routes)
    if method == "flowopd":
        return max(1, budget.samples // budget.group)
    return budget.samples

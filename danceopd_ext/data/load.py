"""Builds the plan of a run from everything that a preset says about data."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from danceopd_ext.data.dataset_schema import RULE_KEYS, check_defaults
from danceopd_ext.data.dataset_toml import read_dataset_config
from danceopd_ext.data.items import CaptionRules, Item, RouteData
from danceopd_ext.data.plan import Plan
from danceopd_ext.data.prompts import read_prompts
from danceopd_ext.data.resolutions import parse_resolution
from danceopd_ext.data.route_weights import check_weights
from danceopd_ext.data.source_images import SourceImages
from danceopd_ext.data.user_paths import find_path
from danceopd_ext.errors import UserError, nearest, readable

PathLike = str | os.PathLike


class LoadedData(NamedTuple):
    """A run's plan, and notes to print on what was ignored or left out."""

    plan: Plan
    notes: list[str]


def load_data(
    teachers: Sequence[str],
    *,
    dataset_config: PathLike | None = None,
    prompts: Mapping[str, PathLike | Sequence[PathLike]] | None = None,
    resolution: object = 1024,
    weights: Mapping[str, float] | None = None,
    seed: int = 0,
    train_batch_size: int = 1,
    processes: int = 1,
    micro_batches: int = 1,
    defaults: Mapping[str, object] | None = None,
    base: Path | None = None,
    every_route: bool = False,
    sources: SourceImages | None = None,
) -> LoadedData:
    """Read the data of every route and decide the run's steps.

    `teachers` are the names under [danceopd.teachers]. A route may have both a subset in `dataset_config` and files in
    `prompts`. `resolution` (see resolutions.parse_resolution) is for prompt files and for datasets that name none.
    `defaults` holds keys of the preset that stand in for missing keys of the dataset configuration; those about
    captions apply to prompt files too. Relative paths count from the working directory or else from `base`, the
    preset's folder. `train_batch_size` is per process, `micro_batches` are accumulated in a step; with `every_route`
    each step has that many of every route. `sources`: what the model does with the source images of edits
    (None: it draws from text alone); it knows their files afterwards.

    Raises UserError for everything wrong in the files, in the weights, for a teacher without data, and for data that
    the model cannot use.
    """
    sources = sources or SourceImages("this model")
    shares = check_weights(weights or {}, teachers)
    sizes = parse_resolution(resolution, "resolution")
    known = {key: value for key, value in (defaults or {}).items() if value is not None}
    check_defaults(known)
    found: dict[str, list[Item]] = {name: [] for name in teachers}
    notes: list[str] = []
    if dataset_config is not None:
        config = find_path(dataset_config, base)
        by_route, more = read_dataset_config(config, teachers, {"resolution": list(map(list, sizes)), **known})
        notes += more
        for name, items in by_route.items():
            found[name] += items
    rules = CaptionRules(**{key: known[key] for key in RULE_KEYS if key in known})
    for name, paths in (prompts or {}).items():
        if name not in found:
            raise UserError(
                f'[danceopd.prompts]: "{name}" is not a teacher.{nearest(name, teachers)} '
                f"Teachers: {', '.join(teachers)}."
            )
        for path in [paths] if isinstance(paths, str | os.PathLike) else paths:
            items, more = read_prompts(find_path(path, base), sizes, rules, sources.multiple)
            found[name] += items
            notes += more
    _check_all_fed(found, shares, dataset_config)
    routes = {
        # the source images of a route that is never drawn are not opened
        name: RouteData(name, sources.measured(items) if shares[name] else tuple(items))
        for name, items in found.items()
    }
    plan = Plan(routes, weights, seed, micro_batches, train_batch_size * processes, processes, every_route)
    return LoadedData(plan, [readable(note) for note in [*notes, *plan.notes()]])


def _check_all_fed(
    found: Mapping[str, Sequence[Item]], shares: Mapping[str, float], dataset_config: PathLike | None
) -> None:
    for name, items in found.items():
        if not items and shares[name] > 0:
            config = dataset_config or "a dataset_config"
            raise UserError(
                f'the teacher "{name}" has no data. Add {name} = "prompts.txt" to [danceopd.prompts], or a subset '
                f'with custom_attributes.teacher = "{name}" to {config}.'
            )

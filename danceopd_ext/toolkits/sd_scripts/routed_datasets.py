"""Assigns sd-scripts' datasets to teachers and balances them by weight, without reading a picture.

A picture only provides its caption and its bucket; the student learns on states of its own rollouts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from danceopd_ext.data.dataset_toml import route_of
from danceopd_ext.errors import UserError
from danceopd_ext.toolkits.hosted.route_balance import balanced

#: the key of a subset's custom_attributes that names its teacher
TEACHER = "teacher"


def assign_routes(group: Any, teachers: Sequence[str]) -> None:
    """Give every subset of a dataset group its teacher. Raises UserError that names the subset and the remedy."""
    for d, dataset in enumerate(group.datasets, 1):
        for s, subset in enumerate(dataset.subsets, 1):
            where = f"dataset {d}, subset {s} ({_title(subset)})"
            if getattr(subset, "is_reg", False):
                raise UserError(f"{where}: is_reg: regularisation images do not have a teacher. Remove the subset.")
            if getattr(subset, "conditioning_data_dir", None):
                raise UserError(
                    f"{where}: conditioning_data_dir: the models that sd-scripts trains here do not edit pictures. "
                    "Remove it."
                )
            # toml's inline tables cannot be pickled, and without that data loader workers never start
            subset.custom_attributes = plain(subset.custom_attributes or {})
            subset.custom_attributes[TEACHER] = route_of(subset.custom_attributes, teachers, where)


def _title(subset: Any) -> str:
    return str(getattr(subset, "image_dir", None) or getattr(subset, "metadata_file", None) or "no folder")


def plain(value: Any) -> Any:
    """Return the value in plain dicts and lists."""
    if isinstance(value, Mapping):
        return {key: plain(entry) for key, entry in value.items()}
    return [plain(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def forget_pictures(group: Any, channels: int, scale: int) -> None:
    """Give every item empty latents of its bucket's size, so that no picture is read or encoded."""
    blank: dict[tuple[int, int], torch.Tensor] = {}
    for dataset in group.datasets:
        for info in dataset.image_data.values():
            width, height = info.bucket_reso
            latents = blank.setdefault((width, height), torch.zeros(channels, height // scale, width // scale))
            info.latents = info.latents_flipped = latents
            info.latents_original_size, info.latents_crop_ltrb = (width, height), (0, 0, width, height)
            info.alpha_mask = None
    group.new_cache_latents = nothing_to_cache


def mend_cached_texts(group: Any) -> None:
    """Turn numpy scalars among cached texts (HunyuanImage's) into arrays: the toolkit cannot batch scalars."""
    for dataset in group.datasets:
        for info in dataset.image_data.values():
            if info.text_encoder_outputs is not None:
                parts = info.text_encoder_outputs
                info.text_encoder_outputs = [
                    np.asarray(part) if isinstance(part, np.generic) else part for part in parts
                ]


def nothing_to_cache(*given: Any, **named: Any) -> None:
    """Replace the caching of latents. This is a module's function because the group is pickled for workers."""


def balance(group: Any, weights: Mapping[str, float], seed: int) -> list[str]:
    """Make each route come up by its weight in an epoch, over all datasets together; call it before the loader.

    Returns a line for each route. Raises UserError if a route with a weight has no data.
    """
    entries: dict[str, list[tuple[int, int, str]]] = {name: [] for name in weights}
    for d, dataset in enumerate(group.datasets):
        for b, bucket in enumerate(dataset.bucket_manager.buckets):
            for key in sorted(bucket):
                route = dataset.image_to_subset[key].custom_attributes[TEACHER]
                entries[route].append((d, b, key))
    for name, weight in weights.items():
        if weight > 0 and not entries[name]:
            raise UserError(
                f'the teacher "{name}" has no data. Add a subset with custom_attributes.teacher = "{name}", or prompts '
                f"in [danceopd.prompts], or write {name} = 0 in [danceopd.routes]."
            )
    chosen = balanced(entries, weights, seed)
    _rearrange(group, [entry for items in chosen.values() for entry in items])
    shown = sum(len(items) for items in chosen.values())
    lines = []
    for name, items in entries.items():
        different, share = len({(d, key) for d, _, key in items}), len(chosen.get(name, ())) / shown
        lines.append(f"  {name}: {different} items, {share:.0%} of the samples")
    return lines


def _rearrange(group: Any, entries: Sequence[tuple[int, int, str]]) -> None:
    """Fill the buckets with these (dataset, bucket, key) and count the batches again, as the toolkit does."""
    for dataset in group.datasets:
        dataset.bucket_manager.buckets = [[] for _ in dataset.bucket_manager.buckets]
    for d, b, key in entries:
        group.datasets[d].bucket_manager.buckets[b].append(key)
    for dataset in group.datasets:
        if dataset.buckets_indices:
            _index(dataset)
    group.num_train_images = sum(dataset.num_train_images for dataset in group.datasets)
    group.cumulative_sizes = group.cumsum(group.datasets)


def _index(dataset: Any) -> None:
    batch_of, size = type(dataset.buckets_indices[0]), dataset.batch_size
    buckets = dataset.bucket_manager.buckets
    dataset.buckets_indices = [
        batch_of(b, size, i) for b, bucket in enumerate(buckets) for i in range(-(-len(bucket) // size))
    ]
    dataset._length = len(dataset.buckets_indices)
    dataset.num_train_images = sum(len(bucket) for bucket in buckets)
    dataset.shuffle_buckets()

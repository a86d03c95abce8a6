"""Reads a run's data from musubi's dataset configuration, from prompt files, or from both."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from multiprocessing import Value
from pathlib import Path
from typing import Any

import torch

from danceopd_ext.errors import UserError
from danceopd_ext.foreign.json import read_object
from danceopd_ext.foreign.toml import read_toml
from danceopd_ext.method import derive_seed
from danceopd_ext.toolkits.hosted.number_limits import check_dataset_numbers
from danceopd_ext.toolkits.musubi import prompt_data
from danceopd_ext.toolkits.musubi.adapter import NOT_CONDITIONS, MusubiAdapter
from danceopd_ext.toolkits.musubi.dataset_routes import check_guidance, routes_of_datasets
from danceopd_ext.toolkits.musubi.routed_group import RoutedGroup, routed_group
from danceopd_ext.toolkits.musubi.settings import Settings
from danceopd_ext.toolkits.musubi.text_cache import encode_texts, text_folder


class RunData:
    """All data of a run. notes: for the user, after `build`."""

    def __init__(self, settings: Settings, weights: Mapping[str, float], adapter: MusubiAdapter):
        self.settings, self.weights, self.adapter = settings, weights, adapter
        options = settings.options
        self.items, self.notes = prompt_data.read_route_prompts(options, settings.resolutions, adapter)
        scales = [options.student_guidance_scale, *(teacher.guidance_scale for teacher in options.teachers.values())]
        self.guided = any(scale != 1 for scale in scales)
        self.folder = text_folder(adapter, settings.cache) if self.items or self.guided else None

    def build(self, args: argparse.Namespace, theirs: Callable | None) -> tuple[RoutedGroup, Any, Any]:
        """Return musubi's (group, collator, epoch).

        theirs: musubi's own function that makes them; None: prompts only.
        """
        datasets, routes, epoch = [], [], Value("i", 0)
        if theirs:
            group, _, epoch = read_datasets(args, theirs)
            datasets = list(group.datasets)
            routes = routes_of_datasets(datasets, self.settings.options)
            if self.adapter.text_sees_sources:
                check_guidance(datasets, routes, self.settings.options)
        for route, items in self.items.items():
            seed = derive_seed(args.seed, "prompts", route) % 2**31
            datasets.append(
                prompt_data.prompt_dataset(items, self.adapter, self.folder, self.settings.batch_size, seed, epoch)
            )
            routes.append(route)
        group = routed_group(datasets, routes, self.weights, args.seed)
        return group, _collator(args, group, epoch), epoch

    def encode(self, accelerator: Any) -> None:
        """Write the cache files of the prompts and of the empty prompt."""
        if self.folder is None:
            return
        texts = [item.text for items in self.items.values() for item in items]
        texts += [self.adapter.empty_prompt] if self.guided else []
        encode_texts(texts, self.adapter, self.folder, accelerator)
        if accelerator.is_local_main_process:
            for items in self.items.values():
                prompt_data.write_zero_latents(items, self.adapter, self.folder)
        accelerator.wait_for_everyone()

    def empty(self, device: torch.device) -> dict[str, Any] | None:
        """Return the entries of a batch with the empty prompt, for guidance; None without guidance."""
        if not self.guided:
            return None
        batch = prompt_data.as_batch(prompt_data.text_path(self.folder, self.adapter.empty_prompt))
        return {name: _to(entry, device) for name, entry in batch.items() if name not in NOT_CONDITIONS}


def _to(entry: Any, device: torch.device) -> Any:
    return [part.to(device) for part in entry] if isinstance(entry, list) else entry.to(device)


def _collator(args: argparse.Namespace, group: RoutedGroup, epoch: Any) -> Any:
    from musubi_tuner.training.accelerator_setup import collator_class

    return collator_class(epoch, group if args.max_data_loader_n_workers == 0 else None)


def read_datasets(args: argparse.Namespace, theirs: Callable) -> Any:
    """Read dataset_config with musubi's own reader, and raise its errors as UserErrors."""
    from voluptuous import Invalid

    path = Path(args.dataset_config)
    _check_document(path)
    try:
        return theirs(args)
    except (ValueError, AssertionError, Invalid) as error:
        text = str(error).split(" / ")[0]  # it repeats everything in Japanese
        raise UserError(f"{path}: {text}{'' if text.endswith('.') else '.'}") from error


def _check_document(path: Path) -> None:
    """Raise UserError for a file that musubi-tuner's own reader cannot read, or would never finish."""
    readers = {".json": read_object, ".toml": read_toml}
    if path.suffix.lower() not in readers:
        raise UserError(f"{path}: dataset_config must be a .toml or .json file in musubi-tuner's format.")
    document = readers[path.suffix.lower()](path, "dataset configuration")
    check_dataset_numbers(str(path), document)

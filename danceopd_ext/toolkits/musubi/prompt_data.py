"""Makes a dataset of musubi's from prompt files: text-to-image routes need no picture.

Each prompt becomes an item of musubi's: a cache file with its encoded text, written by musubi's own script, and a cache
file with latents of zeros, of which only the shape matters. musubi's own batch manager reads both.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from danceopd_ext.config.schema import DanceOPDSection
from danceopd_ext.data.cache_entries import UnusableEntry, read_entry, write_entry
from danceopd_ext.data.items import Item, Size
from danceopd_ext.data.prompts import read_prompts
from danceopd_ext.errors import UserError
from danceopd_ext.files import whole_file
from danceopd_ext.toolkits.musubi.adapter import MusubiAdapter


class PromptDataset(torch.utils.data.Dataset):
    """A dataset for musubi's trainer. It is pickled for the workers.

    manager: musubi's BucketBatchManager of the items. epoch: musubi's number of the epoch, shared by the processes.
    """

    def __init__(self, manager: Any, seed: int, epoch: Any):
        self.batch_manager, self.seed, self.shared_epoch = manager, seed, epoch
        self.batch_size = manager.batch_size
        self.num_train_items = sum(len(bucket) for bucket in manager.buckets.values())
        self.current_epoch = 0

    def __len__(self) -> int:
        return len(self.batch_manager)

    def __getitem__(self, index: int) -> dict[str, Any]:
        while self.current_epoch < self.shared_epoch.value:
            self.current_epoch += 1
            self.shuffle_buckets()
        return self.batch_manager[index]

    def shuffle_buckets(self) -> None:
        """Shuffle items and batches for the epoch, equally in every process: musubi draws from `random`."""
        import random

        random.seed(self.seed + self.current_epoch)
        self.batch_manager.shuffle()

    def set_current_epoch(self, epoch: int) -> None: ...

    def set_max_train_steps(self, max_train_steps: int) -> None: ...

    def get_metadata(self) -> dict[str, Any]:
        sizes = [list(size) for size in self.batch_manager.bucket_resos]
        return {"prompts": self.num_train_items, "resolutions": sizes, "batch_size_per_device": self.batch_size}


def read_route_prompts(
    options: DanceOPDSection, resolutions: Sequence[Size], adapter: MusubiAdapter
) -> tuple[dict[str, list[Item]], list[str]]:
    """Return the prompts of each route that has prompt files, and notes for the user. Raises UserError."""
    routes: dict[str, list[Item]] = {}
    notes: list[str] = []
    for name, files in options.prompts.items():
        for file in [files] if isinstance(files, str) else files:
            items, told = read_prompts(file, resolutions)
            routes.setdefault(name, []).extend(items)
            notes += told
        for item in routes.get(name, []):
            _check_size(item, name, adapter)
    return routes, notes


def _check_size(item: Item, route: str, adapter: MusubiAdapter) -> None:
    step = adapter.size_step
    if item.width % step or item.height % step:
        raise UserError(
            f"{item.where}: {item.width}x{item.height} pixels: width and height must be multiples of {step} "
            "(resolution in the preset, or --w and --h of the prompt)."
        )
    if adapter.latent_shape(item.width, item.height) is None:
        raise UserError(
            f"[danceopd.prompts] {route}: this model edits pictures, and a prompt has no picture. Give the route a "
            "dataset with source images in dataset_config instead."
        )


def text_path(folder: Path, text: str) -> Path:
    """Return the path of an encoded text's cache file."""
    return folder / f"{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}_te.safetensors"


def prompt_dataset(
    items: Iterable[Item], adapter: MusubiAdapter, folder: Path, batch_size: int, seed: int, epoch: Any
) -> PromptDataset:
    """Return a route's prompts. folder: of the encoded texts, which must exist when the first batch is read."""
    from musubi_tuner.dataset.image_video_dataset import BucketBatchManager

    buckets: dict[Size, list[Any]] = {}
    for item in items:
        buckets.setdefault(item.size, []).append(_musubi_item(item, adapter, folder))
    return PromptDataset(BucketBatchManager(buckets, batch_size), seed, epoch)


def _musubi_item(item: Item, adapter: MusubiAdapter, folder: Path) -> Any:
    from musubi_tuner.dataset.image_video_dataset import ItemInfo

    shape = adapter.latent_shape(item.width, item.height)
    latents = folder / f"zeros_{'x'.join(map(str, shape))}.safetensors"
    info = ItemInfo(item.text, item.text, item.size, item.size, latent_cache_path=str(latents))
    info.text_encoder_output_cache_path = str(text_path(folder, item.text))
    return info


def write_zero_latents(items: Iterable[Item], adapter: MusubiAdapter, folder: Path) -> None:
    """Write the latents' cache files of all sizes, with musubi's name for the key."""
    for width, height in {item.size for item in items}:
        shape = adapter.latent_shape(width, height)
        path = folder / f"zeros_{'x'.join(map(str, shape))}.safetensors"
        try:
            read_entry(path)
        except (OSError, UnusableEntry):
            with whole_file(path) as part:
                write_entry(part, {f"latents_1x{shape[-2]}x{shape[-1]}_float32": torch.zeros(shape)})


def as_batch(path: Path) -> Mapping[str, Any]:
    """Return the entries of a batch of one sample that musubi reads from one cache file of texts."""
    from musubi_tuner.dataset.image_video_dataset import BucketBatchManager, ItemInfo

    info = ItemInfo("", "", (0, 0), (0, 0), latent_cache_path=str(path))
    info.text_encoder_output_cache_path = str(path)
    return BucketBatchManager({(0, 0): [info]}, 1)[0]

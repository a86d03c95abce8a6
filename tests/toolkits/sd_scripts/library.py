"""A stand-in of sd-scripts' dataset classes, with the signatures of each version that is supported.

tests/integration/sd_scripts/test_contract.py holds the signatures against the real ones.
"""

from __future__ import annotations

from collections import namedtuple
from types import ModuleType, SimpleNamespace
from typing import Any

import torch

#: oldest first, as in its row of config/toolkits.py
VERSIONS = ("2025-08", "2026-02", "2026-06")

BucketBatchIndex = namedtuple("BucketBatchIndex", "bucket_index bucket_batch_size batch_index")


class ImageInfo:
    def __init__(
        self, image_key: str, num_repeats: int, caption: str, is_reg: bool, absolute_path: str,
        caption_dropout_rate: float = 0.0,
    ) -> None:  # fmt: skip
        assert isinstance(is_reg, bool)
        self.image_key, self.num_repeats, self.caption, self.absolute_path = (
            image_key, num_repeats, caption, absolute_path,
        )  # fmt: skip
        self.text_encoder_outputs = self.text_encoder_outputs_npz = None


class BucketManager:
    def __init__(self, no_upscale, max_reso, min_size, max_size, reso_steps) -> None:
        self.resos: list[tuple[int, int]] = []
        self.buckets: list[list[str]] = []

    def add_if_new_reso(self, reso):
        if reso not in self.resos:
            self.resos.append(reso)
            self.buckets.append([])

    def add_image(self, reso, image_or_info):
        self.buckets[self.resos.index(reso)].append(image_or_info)


class DreamBoothSubset(SimpleNamespace):
    """Any rules: they are compared with the real class's on the checkouts."""


class _Dataset(torch.utils.data.Dataset):
    def _begin(self, resolution: Any, debug_dataset: bool) -> None:
        assert debug_dataset is False
        self.width, self.height = resolution
        self.subsets: list[Any] = []
        self.image_data: dict[str, ImageInfo] = {}
        self.image_to_subset: dict[str, Any] = {}
        self.tags: dict[str, list[str]] = {}

    def __len__(self) -> int:
        return self._length

    def register_image(self, info, subset):
        self.image_data[info.image_key], self.image_to_subset[info.image_key] = info, subset

    def set_tag_frequency(self, dir_name, captions):
        self.tags[dir_name] = captions

    def set_seed(self, seed):
        self.seed = seed

    def new_cache_text_encoder_outputs(self, models, accelerator):
        for info in self.image_data.values():
            info.text_encoder_outputs = (models, info.caption)


class BaseDataset(_Dataset):
    def __init__(self, resolution, network_multiplier: float, debug_dataset: bool, resize_interpolation=None):
        self._begin(resolution, debug_dataset)


class InpaintingBaseDataset(_Dataset):
    """Since v0.10.4."""

    def __init__(
        self, resolution, network_multiplier: float, train_inpainting: bool, debug_dataset: bool,
        resize_interpolation=None, skip_image_resolution=None,
    ):  # fmt: skip
        self._begin(resolution, debug_dataset)
        assert train_inpainting is False


class DatasetGroup:
    def __init__(self, datasets):
        self.datasets = datasets


def library(version: str) -> dict[str, ModuleType]:
    """The modules that `prompt_dataset` imports, as this version has them."""
    util, config = ModuleType("library.train_util"), ModuleType("library.config_util")
    util.BaseDataset = InpaintingBaseDataset if version == "2026-06" else BaseDataset
    for kind in (ImageInfo, BucketManager, BucketBatchIndex, DreamBoothSubset, DatasetGroup):
        setattr(util, kind.__name__, kind)
    package = ModuleType("library")
    package.train_util, package.config_util = util, config
    return {"library": package, "library.train_util": util, "library.config_util": config}

"""A stand-in of sd-scripts' datasets: captions in buckets, and no pictures."""

from __future__ import annotations

import random
import sys
from collections import namedtuple
from types import SimpleNamespace
from typing import Any

import torch

BucketBatchIndex = namedtuple("BucketBatchIndex", "bucket_index bucket_batch_size batch_index")


class Subset(SimpleNamespace):
    """What the toolkit knows of a folder."""

    def __init__(self, custom_attributes: dict[str, Any], **more: Any):
        rules = dict.fromkeys(("shuffle_caption", "token_warmup_step", "caption_tag_dropout_rate"), 0)
        rules |= {"caption_dropout_rate": 0.0, "caption_dropout_every_n_epochs": 0, "enable_wildcard": False}
        affixes = {"caption_prefix": None, "caption_suffix": None}
        super().__init__(custom_attributes=custom_attributes, image_dir="folder", **{**rules, **affixes, **more})


class Dataset(torch.utils.data.Dataset):
    """One of the toolkit's datasets: captions of one size, in subsets."""

    def __init__(self, subsets: list[tuple[Subset, list[str]]], batch_size: int = 1, reso: tuple[int, int] = (64, 8)):
        self.batch_size, self.subsets = batch_size, [subset for subset, _ in subsets]
        self.image_data, self.image_to_subset = {}, {}
        for number, (subset, captions) in enumerate(subsets):
            for line, caption in enumerate(captions):
                key = f"{id(self)}/{number}/{line}"
                self.image_data[key] = SimpleNamespace(caption=caption, bucket_reso=reso, text_encoder_outputs=None)
                self.image_to_subset[key] = subset
        self.bucket_manager = SimpleNamespace(buckets=[list(self.image_data)])
        self.num_train_images, self.num_reg_images = len(self.image_data), 0
        self._index()

    def _index(self) -> None:
        count = -(-len(self.image_data) // self.batch_size)
        self.buckets_indices = [BucketBatchIndex(0, self.batch_size, i) for i in range(count)]
        self._length = count

    def shuffle_buckets(self) -> None:
        random.seed(0)
        random.shuffle(self.buckets_indices)

    def process_caption(self, subset: Subset, caption: str) -> str:
        return " ".join(filter(None, (subset.caption_prefix, caption, subset.caption_suffix)))

    def new_cache_text_encoder_outputs(self, models, accelerator) -> None:
        strategies = sys.modules["library.strategy_base"]
        tokenizer = strategies.TokenizeStrategy.get_strategy()
        encoder = strategies.TextEncodingStrategy.get_strategy()
        for info in self.image_data.values():
            encoded = encoder.encode_tokens(tokenizer, models, tokenizer.tokenize(info.caption))
            info.text_encoder_outputs = [part[0] for part in encoded]

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> dict[str, Any]:
        place = self.buckets_indices[index]
        first = place.batch_index * place.bucket_batch_size
        keys = self.bucket_manager.buckets[place.bucket_index][first : first + place.bucket_batch_size]
        infos = [self.image_data[key] for key in keys]
        cached = [info.text_encoder_outputs for info in infos]
        strategy = sys.modules["library.strategy_base"].TokenizeStrategy.get_strategy()
        return {
            "latents": torch.stack([info.latents for info in infos]),
            "custom_attributes": [self.image_to_subset[key].custom_attributes for key in keys],
            "captions": [info.caption for info in infos],
            "input_ids_list": strategy.tokenize([info.caption for info in infos]),
            "text_encoder_outputs_list": None if cached[0] is None else [torch.stack(p) for p in zip(*cached)],  # noqa: B905
            "loss_weights": torch.ones(len(keys)),
        }


class DatasetGroup(torch.utils.data.ConcatDataset):
    def __init__(self, datasets):
        super().__init__(datasets)
        self.num_train_images = sum(dataset.num_train_images for dataset in datasets)

    def new_cache_latents(self, model, accelerator) -> None:
        raise AssertionError("no picture is read")

    def new_cache_text_encoder_outputs(self, models, accelerator) -> None:
        for dataset in self.datasets:
            dataset.new_cache_text_encoder_outputs(models, accelerator)

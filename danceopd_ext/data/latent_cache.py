"""Encoded pictures on disk, so that the VAE can leave before training starts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
from torch import Tensor

from .items import Item
from .targets import PictureFile, load_target
from .text_cache import TextCache


class LatentCache:
    """The clean latents of items' targets, for one VAE. `model_key` tells VAEs apart (see fingerprint).

    An entry is found by the picture's content and by how it was resized and cut: the same picture in two folders is
    encoded once. `pictures`: what is known of each file (see targets.inspect_picture).
    """

    def __init__(self, folder: Path, model_key: str, pictures: Mapping[Path, PictureFile]) -> None:
        self.pictures = pictures
        self._entries = TextCache(folder, model_key, what="picture")

    @property
    def folder(self) -> Path:
        return self._entries.folder

    def key(self, item: Item) -> str:
        """Return the words that identify the latents of an item with a target."""
        picture = self.pictures[item.target.path]
        (wide, high), (width, height) = item.target.resized(picture.size, item.size), item.size
        return f"{picture.digest} resized to {wide}x{high}, cut to {width}x{height}"

    def missing(self, items: Iterable[Item]) -> list[Item]:
        """Return the items whose targets have no entry, one for each entry that is to be made."""
        of = {self.key(item): item for item in items}
        return [of[key] for key in self._entries.missing(of)]

    def encode_missing(self, items: Iterable[Item], encode: Callable[[np.ndarray], Tensor]) -> int:
        """Encode every target that has no entry yet, and return how many there were.

        `encode` gets one picture, uint8 [height, width, 3], and gives its latents [C, H, W].
        """
        of = {self.key(item): item for item in items}

        def encode_one(keys: list[str]) -> list[dict[str, Tensor]]:
            (key,) = keys
            return [{"latents": encode(load_target(of[key].target, of[key].size))}]

        return self._entries.encode_missing(of, encode_one)

    def get(self, item: Item) -> Tensor:
        """Return the latents [C, H, W] of an item's target, on the CPU. Raises KeyError where no entry is sound."""
        return self._entries.get(self.key(item))["latents"]

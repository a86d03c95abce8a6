"""Keeps encoded pictures on disk, so that the VAE can leave memory before training starts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from danceopd_ext.data.items import Item, Size
from danceopd_ext.data.pictures import PictureFile, load_cut, load_picture
from danceopd_ext.data.source_images import SourceImages
from danceopd_ext.data.text_cache import Encoded, TextCache

if TYPE_CHECKING:
    from PIL.Image import Image

Use = tuple[Path, Size]
"""A source image, and the size of the picture that is drawn from it."""


def _is_latents(tensors: Encoded) -> bool:
    """Return whether an entry is the latents of one picture."""
    latents = tensors.get("latents")
    return len(tensors) == 1 and latents is not None and latents.ndim > 0 and latents.dtype != torch.bool


class LatentCache:
    """The clean latents of items' pictures, for one VAE. `model_key` identifies the VAE (see fingerprint).

    An entry is found by the picture's content and by how it was resized and cut: the same picture in two folders is
    encoded once. `pictures`: what is known of each file (see pictures.inspect_picture).
    """

    def __init__(self, folder: Path, model_key: str, pictures: Mapping[Path, PictureFile]) -> None:
        self.pictures = pictures
        self._entries = TextCache(folder, model_key, what="picture", fits=_is_latents)

    @property
    def folder(self) -> Path:
        return self._entries.folder

    def key(self, item: Item) -> str:
        """Return the words that identify the latents of an item with a picture."""
        picture = self.pictures[item.picture.path]
        (wide, high), (width, height) = item.picture.resized(picture.size, item.size), item.size
        return f"{picture.digest} resized to {wide}x{high}, cut to {width}x{height}"

    def path(self, item: Item) -> Path:
        """Return the path of the entry of an item's picture."""
        return self._entries.path(self.key(item))

    def notes(self) -> list[str]:
        """Return notes on entries that `missing` found and that cannot be used."""
        return self._entries.notes()

    def missing(self, items: Iterable[Item]) -> list[Item]:
        """Return the items whose pictures have no entry, one for each missing entry."""
        of = {self.key(item): item for item in items}
        return [of[key] for key in self._entries.missing(of)]

    def encode_missing(self, items: Iterable[Item], encode: Callable[[np.ndarray], Tensor]) -> int:
        """Encode every picture that has no entry yet, and return how many there were.

        `encode` gets one picture, uint8 [height, width, 3], and gives its latents [C, H, W].
        """
        of = {self.key(item): item for item in items}

        def encode_one(keys: list[str]) -> list[dict[str, Tensor]]:
            (key,) = keys
            return [{"latents": encode(load_cut(of[key].picture, of[key].size))}]

        return self._entries.encode_missing(of, encode_one)

    def get(self, item: Item) -> Tensor:
        """Return the latents [C, H, W] of an item's picture, on the CPU. Raises NoEntry if no entry is sound."""
        return self._entries.get(self.key(item))["latents"]


class SourceCache:
    """The clean latents of source images, for one VAE and one family's rule of sizes, in the same files as above.

    `sources`: what the model does with them, and what is known of each file. An entry is found by the picture's
    content and by the size in which the model takes it. Each is asked for with the size of the picture that is drawn.
    `load_image` opens one.
    """

    def __init__(
        self,
        folder: Path,
        model_key: str,
        sources: SourceImages,
        load_image: Callable[[Path], Image] = load_picture,
    ) -> None:
        self.sources, self._load_image = sources, load_image
        self._entries = TextCache(folder, model_key, what="source image", fits=_is_latents)

    @property
    def folder(self) -> Path:
        return self._entries.folder

    def key(self, path: Path, drawn: Size) -> str:
        """Return the words that identify the latents of a source image."""
        width, height = self.sources.fitted(self.sources.pictures[path].size, drawn)
        return f"{self.sources.shown(path, drawn)} as a source of {width}x{height}"

    def path(self, path: Path, drawn: Size) -> Path:
        """Return the path of the entry of a source image."""
        return self._entries.path(self.key(path, drawn))

    def notes(self) -> list[str]:
        """Return notes on entries that `missing` found and that cannot be used."""
        return self._entries.notes()

    def missing(self, uses: Iterable[Use]) -> list[Use]:
        """Return the uses that have no entry, one for each missing entry."""
        of = {self.key(*use): use for use in uses}
        return [of[key] for key in self._entries.missing(of)]

    def encode_missing(self, uses: Iterable[Use], encode: Callable[[Image, Size], Tensor]) -> int:
        """Encode every source image that has no entry yet, and return how many entries were added.

        `encode` gets one RGB picture as it is and the size of what is drawn, and gives the latents [C, H, W].
        """
        of = {self.key(*use): use for use in uses}

        def encode_one(keys: list[str]) -> list[dict[str, Tensor]]:
            path, drawn = of[keys[0]]
            return [{"latents": encode(self._load_image(path), drawn)}]

        return self._entries.encode_missing(of, encode_one)

    def get(self, path: Path, drawn: Size) -> Tensor:
        """Return the latents [C, H, W] of a source image, on the CPU. Raises NoEntry if no entry is sound."""
        return self._entries.get(self.key(path, drawn))["latents"]

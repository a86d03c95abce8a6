"""Source images and pictures -> clean latents on disk, so that the VAE can leave before the transformer comes."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from danceopd_ext.data.fingerprint import fingerprint
from danceopd_ext.data.items import Item, Size
from danceopd_ext.data.latent_cache import LatentCache, SourceCache
from danceopd_ext.data.pictures import PictureFile, load_picture
from danceopd_ext.data.source_images import SourceImages
from danceopd_ext.engine.devices import free_cached_memory
from danceopd_ext.engine.finite_checks import naming_encoders
from danceopd_ext.engine.model import Model
from danceopd_ext.errors import UserError
from danceopd_ext.models.decoding import encode
from danceopd_ext.models.family import Sources

#: bytes of a number, and of an entry's header
NUMBER, HEADER = 4, 512

LoadImage = Callable[[Path], Image.Image]
Say = Callable[[str], None]


def open_source_cache(
    model: Model, folder: str | Path, source_images: SourceImages, load_image: LoadImage = load_picture
) -> SourceCache | None:
    """Open the cache of encoded source images; None if there are none.

    Raises UserError for a damaged picture that is to be encoded: before a model is loaded.
    """
    if not source_images.uses:
        return None
    cache = SourceCache(folder, _key(model), source_images, load_image)
    for path in dict.fromkeys(path for path, _ in cache.missing(source_images.uses)):
        load_image(path)
    return cache


def encode_source_images(model: Model, cache: SourceCache, say: Say, remedy: str) -> int:
    """Encode every source image that the cache lacks and return how many there were; then the VAE is gone.

    `remedy`: ends the message for a disk with too little room. Raises UserError.
    """
    images, missing = cache.sources, _missing(cache, cache.sources.uses, say)
    if not missing:
        return 0
    sizes = (images.fitted(images.pictures[path].size, drawn) for path, drawn in missing)
    check_room(model, cache.folder, sizes, remedy)

    def latents(vae: Any, picture: Image.Image, drawn: Size) -> torch.Tensor:
        return model.family.encode_sources(vae, Sources([picture], drawn))["source_0"].float()

    return _encode(model, cache, missing, latents)


def open_picture_cache(
    model: Model, folder: str | Path, pictures: Mapping[Path, PictureFile], items: Sequence[Item]
) -> LatentCache | None:
    """Open the cache of encoded target pictures; None if there are none. `items`: those with a target.

    Raises UserError for a damaged picture that is to be encoded: before a model is loaded.
    """
    if not pictures:
        return None
    cache = LatentCache(folder, _key(model), pictures)
    for path in {item.picture.path: None for item in cache.missing(items)}:
        load_picture(path)
    return cache


def encode_pictures(model: Model, cache: LatentCache, items: Sequence[Item], say: Say, remedy: str) -> int:
    """Encode every target picture that the cache lacks and return how many there were; then the VAE is gone.

    `remedy`: ends the message for a disk with too little room. Raises UserError.
    """
    missing = _missing(cache, items, say)
    if not missing:
        return 0
    check_room(model, cache.folder, (item.size for item in missing), remedy)

    def latents(vae: Any, picture: np.ndarray) -> torch.Tensor:
        pixels = torch.from_numpy(picture.copy()).permute(2, 0, 1).unsqueeze(0)
        return encode(vae, pixels / 127.5 - 1)[0].float()

    return _encode(model, cache, missing, latents)


def _missing(cache: LatentCache | SourceCache, wanted: Iterable, say: Say) -> list:
    """What the cache lacks; entries that cannot be used are reported."""
    missing = cache.missing(wanted)
    for note in cache.notes():
        say(f"note: {note}")
    return missing


def _key(model: Model) -> str:
    """What tells the entries of this model's VAE apart from others."""
    return f"{model.family.name}-vae-{fingerprint(model.files.content(['vae']))}"


def _encode(model: Model, cache: LatentCache | SourceCache, missing: Sequence, latents: Callable) -> int:
    """Fill the cache with what `latents` gives, which gets the VAE (float32, on the device) first."""
    vae = model.load_vae(torch.float32).to(model.device)
    with naming_encoders(model, {"vae": vae}, "no"):
        count = cache.encode_missing(missing, partial(latents, vae))
    del vae
    free_cached_memory(model.device)
    return count


def check_room(model: Model, folder: Path, sizes: Iterable[Size], remedy: str) -> None:
    """Raise UserError if the latents of pictures of these sizes do not fit on the disk."""
    needed = sum(NUMBER * int(np.prod(model.latent_shape(*size))) + HEADER for size in sizes)
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{folder}: the encoded pictures need {needed / 2**30:.1f} GiB and {free / 2**30:.1f} are free. {remedy}"
        )

"""The pictures of the data -> clean latents on disk, for the methods that start from them."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import numpy as np
import torch
from accelerate import Accelerator

from danceopd_ext.data.fingerprint import fingerprint
from danceopd_ext.data.items import Item
from danceopd_ext.data.latent_cache import LatentCache, SourceCache
from danceopd_ext.data.targets import load_picture
from danceopd_ext.errors import UserError
from danceopd_ext.models.decoding import encode
from danceopd_ext.models.loading import load_vae
from danceopd_ext.toolkits.native.broken import naming_encoders
from danceopd_ext.toolkits.native.prepare import Prepared

#: bytes of a number, and of an entry's header
NUMBER, HEADER = 4, 512


def open_targets(prepared: Prepared, folder: str) -> LatentCache | None:
    """The cache of encoded pictures, or None where the run's method uses none.

    Raises UserError for a picture that is to be encoded and is damaged: before a model is loaded.
    """
    if not prepared.pictures:
        return None
    cache = LatentCache(folder, vae_key(prepared), prepared.pictures)
    for path in {item.target.path: None for item in cache.missing(_with_targets(prepared))}:
        load_picture(path)
    return cache


def encode_targets(
    prepared: Prepared, cache: LatentCache | None, accelerator: Accelerator, say: Callable[[str], None]
) -> None:
    """Encode every picture that the cache lacks; then the VAE is gone. Raises UserError on a full disk."""
    items = _with_targets(prepared)
    missing = cache.missing(items) if cache else []
    for note in cache.notes() if cache else []:
        say(f"note: {note}")
    if accelerator.is_main_process and missing:
        check_room(prepared, cache, missing)
        vae = load_vae(prepared.source, torch.float32).to(accelerator.device)

        def latents(picture: np.ndarray) -> torch.Tensor:
            pixels = torch.from_numpy(picture.copy()).permute(2, 0, 1).unsqueeze(0)
            return encode(vae, pixels / 127.5 - 1)[0].float()

        with naming_encoders(prepared.source, {"vae": vae}, "no"):
            count = cache.encode_missing(missing, latents)
        say(f"encoded {count} pictures; the VAE is freed")
        del vae
        if accelerator.device.type == "cuda":
            torch.cuda.empty_cache()
    accelerator.wait_for_everyone()


def _with_targets(prepared: Prepared) -> list[Item]:
    return [item for item in prepared.plan.items() if item.target]


def vae_key(prepared: Prepared) -> str:
    """What tells the entries of this model's VAE apart from others."""
    return f"{prepared.family.name}-vae-{fingerprint([prepared.source.components / 'vae'])}"


def check_room(prepared: Prepared, cache: LatentCache | SourceCache, items: list[Item]) -> None:
    """Raise UserError when the latents of these items do not fit on the disk."""
    scale = prepared.source.vae_scale_factor
    shapes = (prepared.family.latent_shape(prepared.config, scale, *item.size) for item in items)
    needed = sum(NUMBER * int(np.prod(shape)) + HEADER for shape in shapes)
    cache.folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(cache.folder).free
    if needed > free:
        raise UserError(
            f"{cache.folder}: the encoded pictures need {needed / 2**30:.1f} GiB and {free / 2**30:.1f} are free. "
            "Choose another text_encoder_cache_dir, or fewer pictures."
        )

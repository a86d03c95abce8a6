"""The source images of a run's edits -> clean latents on disk."""

from __future__ import annotations

from collections.abc import Callable

import torch
from accelerate import Accelerator
from PIL import Image

from danceopd_ext.data.items import Item, Size
from danceopd_ext.data.latent_cache import SourceCache
from danceopd_ext.data.targets import load_picture
from danceopd_ext.models.family import Sources
from danceopd_ext.models.loading import load_vae
from danceopd_ext.toolkits.native.broken import naming_encoders
from danceopd_ext.toolkits.native.prepare import Prepared
from danceopd_ext.toolkits.native.targets import check_room, vae_key


def open_sources(prepared: Prepared, folder: str) -> SourceCache | None:
    """The cache of encoded source images, or None where the run has none.

    Raises UserError for a picture that is to be encoded and is damaged: before a model is loaded.
    """
    if not prepared.sources.uses:
        return None
    cache = SourceCache(folder, vae_key(prepared), prepared.sources)
    for path in dict.fromkeys(path for path, _ in cache.missing(prepared.sources.uses)):
        load_picture(path)
    return cache


def encode_sources(
    prepared: Prepared, cache: SourceCache | None, accelerator: Accelerator, say: Callable[[str], None]
) -> None:
    """Encode every source image that the cache lacks; then the VAE is gone. Raises UserError on a full disk."""
    missing = cache.missing(prepared.sources.uses) if cache else []
    for note in cache.notes() if cache else []:
        say(f"note: {note}")
    if accelerator.is_main_process and missing:
        sizes = (prepared.sources.fitted(prepared.sources.pictures[path].size, drawn) for path, drawn in missing)
        check_room(prepared, cache, [Item("", *size) for size in sizes])
        vae = load_vae(prepared.source, torch.float32).to(accelerator.device)

        def latents(picture: Image.Image, drawn: Size) -> torch.Tensor:
            return prepared.family.encode_sources(vae, Sources([picture], drawn))["source_0"].float()

        with naming_encoders(prepared.source, {"vae": vae}, "no"):
            count = cache.encode_missing(missing, latents)
        say(f"encoded {count} source images; the VAE is freed")
        del vae
        if accelerator.device.type == "cuda":
            torch.cuda.empty_cache()
    accelerator.wait_for_everyone()

"""Prompts -> encoded prompts on disk, so that the text encoders can leave before the transformer comes."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from danceopd_ext.data.fingerprint import fingerprint
from danceopd_ext.data.pictures import load_picture
from danceopd_ext.data.plan import Prompt
from danceopd_ext.data.prompt_cache import PromptCache
from danceopd_ext.data.source_images import SourceImages
from danceopd_ext.data.text_cache import TextCache
from danceopd_ext.engine.devices import free_cached_memory
from danceopd_ext.engine.finite_checks import naming_encoders
from danceopd_ext.engine.long_prompts import long_prompts
from danceopd_ext.engine.model import Model
from danceopd_ext.errors import UserError
from danceopd_ext.models.family import Sources
from danceopd_ext.models.text_pipeline import encode_prompts

EMPTY = ""
#: the parts of a pipeline that encode prompts, and the source images that show in them
ENCODERS = ("text_encoder", "siglip")
#: caches larger than this are announced
SHOWN_BYTES = 2**30

Encode = Callable[[list[Prompt]], Sequence[Mapping[str, torch.Tensor]]]
LoadImage = Callable[[Path], Image.Image]
Say = Callable[[str], None]


def open_prompt_cache(model: Model, folder: str | Path, source_images: SourceImages) -> PromptCache:
    """Open the cache of encoded prompts for this model's text encoders, precision and quantisation."""
    key = f"{model.family.name}-{fingerprint(model.files.text_files)}-{model.precision}"
    if model.quantize_text_encoders:
        key += f"-{model.quantize_text_encoders}"
    return PromptCache(TextCache(folder, key), source_images if model.family.text_sees_sources else None)


def encode_missing(
    model: Model,
    cache: PromptCache,
    prompts: Sequence[Prompt],
    say: Say,
    remedy: str,
    *,
    batch_size: int = 1,
    load_image: LoadImage = load_picture,
    files: Mapping[str, str] | None = None,
) -> int:
    """Encode every prompt that the cache lacks and return how many there were; the text encoders are gone afterwards.

    `remedy`: ends the message for a disk with too little room. `load_image`: gives a source image of a prompt.
    `files`: prompt -> the file that it is in, for the note on prompts that are cut. Raises UserError.
    """
    missing = cache.missing(prompts)
    for note in cache.notes():
        say(f"note: {note}")
    if not missing:
        return 0
    pipeline = model.load_text_encoders()
    for note in long_prompts(model, pipeline, missing, files or {}):
        say(note)
    encode = partial(_encode, model, pipeline, load_image if cache.sees_sources else None)
    encoders = {name: part for name, part in pipeline.components.items() if name.startswith(ENCODERS)}
    with naming_encoders(model, encoders, model.precision):
        check_room(cache, prompts, encode, say, remedy)
        cache.encode_missing(prompts, encode, batch_size)
    del pipeline, encoders, encode
    free_cached_memory(model.device)
    return len(missing)


@torch.no_grad()
def _encode(
    model: Model, pipeline: Any, load_image: LoadImage | None, prompts: list[Prompt]
) -> Sequence[Mapping[str, torch.Tensor]]:
    """What the text encoders give for the prompts; `load_image` if they see the source images."""
    texts = [prompt.text for prompt in prompts]
    if load_image is None:
        return encode_prompts(model.files, pipeline, texts)
    seen = [Sources([load_image(path) for path in prompt.sources], prompt.drawn) for prompt in prompts]
    return encode_prompts(model.files, pipeline, texts, seen)


def check_room(cache: PromptCache, prompts: Sequence[Prompt], encode: Encode, say: Say, remedy: str) -> None:
    """Encode one prompt for each number of source images, and say how much disk all will take if it is much.

    shuffle_caption, wildcards and dropout make many texts out of one caption. Raises UserError, which ends with
    `remedy`, if the disk has too little room.
    """
    alike: dict[int, list[Prompt]] = {}
    for prompt in prompts:
        alike.setdefault(len(prompt.sources) if cache.sees_sources else 0, []).append(prompt)
    needed = 0
    for first, *rest in alike.values():
        cache.encode_missing([first], encode, progress=False)
        needed += cache.estimate(len(cache.missing(rest)), cache.get(*first))
    free = shutil.disk_usage(cache.folder).free
    if needed > free:
        raise UserError(
            f"{cache.folder}: the encoded prompts need {needed / 2**30:.1f} GiB and {free / 2**30:.1f} are free. "
            + remedy
        )
    if needed > SHOWN_BYTES:
        say(f"the encoded prompts will take about {needed / 2**30:.1f} GiB in {cache.folder}")

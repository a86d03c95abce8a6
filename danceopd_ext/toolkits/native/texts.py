"""The prompts of a run -> encoded prompts on disk, so that the text encoders can leave before training starts."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import torch
from accelerate import Accelerator

from danceopd_ext.data.fingerprint import fingerprint
from danceopd_ext.data.plan import Prompt
from danceopd_ext.data.prompt_cache import PromptCache
from danceopd_ext.data.targets import load_picture
from danceopd_ext.data.text_cache import TextCache
from danceopd_ext.errors import UserError
from danceopd_ext.models.family import Sources
from danceopd_ext.models.loading import encode_prompts, load_text_pipeline
from danceopd_ext.toolkits.native.broken import naming_encoders
from danceopd_ext.toolkits.native.long_prompts import long_prompts
from danceopd_ext.toolkits.native.prepare import Prepared, torch_dtype

EMPTY = ""
#: the parts of a pipeline that encode prompts, and the source images that show in them
ENCODERS = ("text_encoder", "siglip")
#: what to do about a cache that does not fit on the disk
FEWER_TEXTS = "Choose another text_encoder_cache_dir, or fewer texts (shuffle_caption and wildcards make many of one)."
#: caches larger than this are announced
SHOWN_BYTES = 2**30


def open_cache(prepared: Prepared, folder: str) -> PromptCache:
    """The cache of encoded prompts for this model's text encoders and precision."""
    precision = prepared.preset.training.mixed_precision
    key = f"{prepared.family.name}-{fingerprint(prepared.source.text_files)}-{precision}"
    sees = prepared.family.text_sees_sources
    return PromptCache(TextCache(folder, key), prepared.sources if sees else None)


def encode_texts(prepared: Prepared, cache: PromptCache, accelerator: Accelerator, say: Callable[[str], None]) -> None:
    """Encode every prompt of the whole run that the cache lacks; then the text encoders are gone from memory."""
    preset = prepared.preset
    prompts = all_prompts(prepared)
    missing = cache.missing(prompts) if accelerator.is_main_process else []
    for note in cache.notes():
        say(f"note: {note}")
    if missing:
        pipeline = load_text_pipeline(prepared.source, torch_dtype(preset.training.mixed_precision), accelerator.device)

        @torch.no_grad()
        def encode(batch: list[Prompt]):
            texts = [prompt.text for prompt in batch]
            if not cache.sees_sources:
                return encode_prompts(prepared.source, pipeline, texts)
            seen = [Sources([load_picture(path) for path in prompt.sources], prompt.drawn) for prompt in batch]
            return encode_prompts(prepared.source, pipeline, texts, seen)

        for note in long_prompts(prepared, pipeline, missing):
            say(note)
        encoders = {name: part for name, part in pipeline.components.items() if name.startswith(ENCODERS)}
        with naming_encoders(prepared.source, encoders, preset.training.mixed_precision):
            check_room(cache, prompts, encode, say)
            cache.encode_missing(prompts, encode, preset.dataset.text_encoder_batch_size)
        say(f"encoded {len(missing)} prompts; the text encoders are freed")
        del pipeline, encoders
        if accelerator.device.type == "cuda":
            torch.cuda.empty_cache()
    accelerator.wait_for_everyone()


def all_prompts(prepared: Prepared) -> list[Prompt]:
    """Every prompt that the run asks for, and the empty ones that guidance moves away from."""
    planned = prepared.plan.all_prompts(prepared.preset.training.max_train_steps)
    found = [Prompt(EMPTY)]
    if prepared.guided and prepared.family.text_sees_sources:
        found += [prompt._replace(text=EMPTY) for prompt in planned if prompt.sources]
    drawn = [
        Prompt(text, line.sources, (line.width, line.height))
        for line in prepared.previews
        for text in (line.prompt, line.negative_prompt)
    ]
    return list(dict.fromkeys([*found, *planned, *drawn]))


def check_room(
    cache: PromptCache,
    prompts: list[Prompt],
    encode: Callable,
    say: Callable[[str], None],
    remedy: str = FEWER_TEXTS,
) -> None:
    """Encode one prompt for each number of source images, and tell how much disk all will take.

    shuffle_caption, wildcards and dropout make many texts out of one caption. Raises UserError, which ends with
    `remedy`, for too little room.
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

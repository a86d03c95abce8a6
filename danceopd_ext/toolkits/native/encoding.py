"""Encodes what a run asks about - prompts, source images, pictures - on the main process, before training."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from accelerate import Accelerator

from danceopd_ext.data.items import Item
from danceopd_ext.data.plan import Prompt
from danceopd_ext.engine import latents, prompts
from danceopd_ext.engine.batches import StepData
from danceopd_ext.engine.conditions import Encodings
from danceopd_ext.engine.prompts import EMPTY
from danceopd_ext.toolkits.native.run_plan import RunPlan

#: what to do about a cache that does not fit on the disk
FEWER_TEXTS = "Choose another text_encoder_cache_dir, or fewer texts (shuffle_caption and wildcards make many of one)."
FEWER_PICTURES = "Choose another text_encoder_cache_dir, or fewer pictures."

Say = Callable[[str], None]


def open_caches(plan: RunPlan, folder: str | Path) -> Encodings:
    """Open the encodings. Raises UserError for a damaged picture that is to be encoded: before a model is loaded."""
    return Encodings(
        prompts.open_prompt_cache(plan.model, folder, plan.source_images),
        latents.open_source_cache(plan.model, folder, plan.source_images),
        latents.open_picture_cache(plan.model, folder, plan.pictures, _with_picture(plan)),
    )


def encode_prompts(plan: RunPlan, encodings: Encodings, accelerator: Accelerator, say: Say) -> None:
    """Encode every prompt of the whole run that the cache lacks; the text encoders are gone afterwards."""
    if accelerator.is_main_process:
        count = prompts.encode_missing(
            plan.model,
            encodings.prompts,
            all_prompts(plan),
            say,
            FEWER_TEXTS,
            batch_size=plan.preset.dataset.text_encoder_batch_size,
            files={item.text: item.where for item in plan.data.items()},
        )
        if count:
            say(f"encoded {count} prompts; the text encoders are freed")
    accelerator.wait_for_everyone()


def encode_source_images(plan: RunPlan, encodings: Encodings, accelerator: Accelerator, say: Say) -> None:
    """Encode every source image that the cache lacks; the VAE is gone afterwards. Raises UserError."""
    cache = encodings.source_latents
    encode = partial(latents.encode_source_images, plan.model, cache, say, FEWER_PICTURES)
    _with_vae(cache, encode, "source images", accelerator, say)


def encode_pictures(plan: RunPlan, encodings: Encodings, accelerator: Accelerator, say: Say) -> None:
    """Encode every picture that the cache lacks; the VAE is gone afterwards. Raises UserError."""
    cache = encodings.pictures
    encode = partial(latents.encode_pictures, plan.model, cache, _with_picture(plan), say, FEWER_PICTURES)
    _with_vae(cache, encode, "pictures", accelerator, say)


def _with_vae(cache: object, encode: Callable[[], int], what: str, accelerator: Accelerator, say: Say) -> None:
    """Fill a cache, if the run has one, on the main process while the others wait."""
    if cache and accelerator.is_main_process and (count := encode()):
        say(f"encoded {count} {what}; the VAE is freed")
    accelerator.wait_for_everyone()


def _with_picture(plan: RunPlan) -> list[Item]:
    return [item for item in plan.data.items() if item.picture]


def all_prompts(plan: RunPlan) -> list[Prompt]:
    """Return every prompt that the run asks for, and the empty ones that guidance moves away from."""
    planned = plan.data.all_prompts(plan.preset.training.max_train_steps)
    found = [Prompt(EMPTY)]
    if plan.is_guided and plan.family.text_sees_sources:
        found += [prompt._replace(text=EMPTY) for prompt in planned if prompt.sources]
    drawn = [
        Prompt(text, line.sources, (line.width, line.height))
        for line in plan.previews
        for text in (line.prompt, line.negative_prompt)
    ]
    return list(dict.fromkeys([*found, *planned, *drawn]))


def step_data(plan: RunPlan, encodings: Encodings, accelerator: Accelerator) -> StepData:
    """Return what gives the method this process's batches."""
    options = plan.preset.danceopd
    return StepData(
        plan.data,
        plan.model,
        encodings,
        rollout_steps=options.rollout_steps,
        match_batch_size=options.match_batch_size,
        guided=plan.is_guided,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
    )

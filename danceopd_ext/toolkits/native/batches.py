"""Planned steps and cached texts -> the method's batches, for this process."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import torch
from accelerate import Accelerator

from danceopd_ext.data.fingerprint import fingerprint
from danceopd_ext.data.items import Item
from danceopd_ext.data.latent_cache import LatentCache
from danceopd_ext.data.plan import MicroBatch, Plan
from danceopd_ext.data.text_cache import TextCache
from danceopd_ext.errors import UserError
from danceopd_ext.method import Batch
from danceopd_ext.models.family import TextConditions
from danceopd_ext.models.loading import load_scheduler, load_text_pipeline
from danceopd_ext.toolkits.native.prepare import Prepared, torch_dtype

EMPTY = ""
#: caches larger than this are announced
SHOWN_BYTES = 2**30


def encode_texts(prepared: Prepared, cache: TextCache, accelerator: Accelerator, say: Callable[[str], None]) -> None:
    """Encode every prompt of the whole run that the cache lacks; then the text encoders are gone from memory."""
    preset = prepared.preset
    texts = [EMPTY, *prepared.plan.all_texts(preset.training.max_train_steps)]
    texts += [text for line in prepared.previews for text in (line.prompt, line.negative_prompt)]
    if accelerator.is_main_process and cache.missing(texts):
        pipeline = load_text_pipeline(prepared.source, torch_dtype(preset.training.mixed_precision), accelerator.device)

        @torch.no_grad()
        def encode(prompts: list[str]):
            return prepared.family.encode_prompts(pipeline, prompts)

        check_room(cache, texts, encode, say)
        count = cache.encode_missing(texts, encode, preset.dataset.text_encoder_batch_size)
        say(f"encoded {count} prompts; the text encoders are freed")
        del pipeline
        if accelerator.device.type == "cuda":
            torch.cuda.empty_cache()
    accelerator.wait_for_everyone()


def check_room(cache: TextCache, texts: list[str], encode: Callable, say: Callable[[str], None]) -> None:
    """Encode the empty prompt, and tell how much disk the others will take. Raises UserError when there is too little.

    shuffle_caption, wildcards and dropout make many texts out of one caption.
    """
    cache.encode_missing([EMPTY], encode, progress=False)
    needed = cache.estimate(len(cache.missing(texts)), cache.get(EMPTY))
    free = shutil.disk_usage(cache.folder).free
    if needed > free:
        raise UserError(
            f"{cache.folder}: the encoded prompts need {needed / 2**30:.1f} GiB and {free / 2**30:.1f} are free. "
            "Choose another text_encoder_cache_dir, or fewer texts (shuffle_caption and wildcards make many of one)."
        )
    if needed > SHOWN_BYTES:
        say(f"the encoded prompts will take about {needed / 2**30:.1f} GiB in {cache.folder}")


def open_cache(prepared: Prepared, folder: str) -> TextCache:
    """The cache of encoded prompts for this model's text encoders and precision."""
    precision = prepared.preset.training.mixed_precision
    key = f"{prepared.family.name}-{fingerprint(prepared.source.text_files)}-{precision}"
    return TextCache(folder, key)


class StepData:
    """Gives the method this process's samples of a step, grouped by size.

    `latents`: of the pictures, for methods that start from them.
    """

    def __init__(
        self, prepared: Prepared, cache: TextCache, accelerator: Accelerator, latents: LatentCache | None = None
    ):
        self.plan: Plan = prepared.plan
        self.family, self.config = prepared.family, prepared.config
        self.scale = prepared.source.vae_scale_factor
        self.scheduler = load_scheduler(prepared.source)
        self.steps = prepared.preset.danceopd.rollout_steps
        self.cache, self.latents, self.device = cache, latents, accelerator.device
        self.rank, self.world = accelerator.process_index, accelerator.num_processes
        self._sigmas: dict[tuple[int, int, int], torch.Tensor] = {}

    def __call__(self, route: str, step: int) -> list[Batch]:
        planned = {part.route: part for part in self.plan.parts(step)}
        if route not in planned:
            raise ValueError(f"step {step} was planned for {', '.join(planned)}, not {route}")
        total = sum(len(part.texts) for part in planned.values())
        by_size: dict[tuple[int, int], list[MicroBatch]] = {}
        for micro in planned[route].micro_batches:
            by_size.setdefault((micro.width, micro.height), []).append(micro.slice(self.rank, self.world))
        return [self._batch(route, size, micros, total) for size, micros in by_size.items()]

    def _batch(self, route: str, size: tuple[int, int], micros: list[MicroBatch], total: int) -> Batch:
        items = [self.plan.routes[route].items[number] for micro in micros for number in micro.item_ids]
        return Batch(
            condition=self.conditions([text for micro in micros for text in micro.texts]),
            indices=[index for micro in micros for index in micro.indices],
            total=total,
            latent_shape=self.latent_shape(*size),
            sigmas=self.sigmas(*size, self.steps),
            micro_batch_size=max(len(micro) for micro in micros),
            targets=[self._target(item) for item in items] if self.latents else (),
        )

    def _target(self, item: Item) -> torch.Tensor | None:
        """The clean latents of an item's picture, where it has one."""
        return self.latents.get(item) if item.target else None

    def conditions(self, texts: list[str], negative: str = EMPTY) -> TextConditions:
        """The conditions of these prompts on the device; `negative` is what guidance moves away from."""
        items = [self.cache.get(text) for text in texts]
        return TextConditions(items, self.cache.get(negative)).to(self.device)

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        return self.family.latent_shape(self.config, self.scale, width, height)

    def sigmas(self, width: int, height: int, steps: int) -> torch.Tensor:
        """The pipeline's own sigma grid for this picture size, [steps + 1] on the CPU."""
        key = (width, height, steps)
        if key not in self._sigmas:
            latent_hw = self.latent_shape(width, height)[1:]
            self._sigmas[key] = self.family.sigmas(self.scheduler, self.config, steps, latent_hw)
        return self._sigmas[key]

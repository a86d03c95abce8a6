"""Planned steps, cached texts and cached pictures -> the method's batches, for this process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import Accelerator

from danceopd_ext.data.items import Item, Size
from danceopd_ext.data.latent_cache import LatentCache, SourceCache
from danceopd_ext.data.plan import MicroBatch, Plan, Prompt
from danceopd_ext.data.prompt_cache import PromptCache
from danceopd_ext.method import Batch
from danceopd_ext.models.conditions import SOURCE, PromptTensors, TextConditions, edit_item
from danceopd_ext.models.loading import load_scheduler
from danceopd_ext.toolkits.native.prepare import Prepared
from danceopd_ext.toolkits.native.texts import EMPTY

#: the size of the result, and the sizes of the source images
Alike = tuple[Size, tuple[Size, ...]]


class StepData:
    """Gives the method this process's samples of a step, grouped by the sizes of result and source images.

    `latents`: of the pictures, for methods that start from them. `sources`: of the source images, where there are any.
    """

    def __init__(
        self,
        prepared: Prepared,
        cache: PromptCache,
        accelerator: Accelerator,
        latents: LatentCache | None = None,
        sources: SourceCache | None = None,
    ):
        self.plan: Plan = prepared.plan
        self.family, self.config = prepared.family, prepared.config
        self.scale = prepared.source.vae_scale_factor
        self.scheduler = load_scheduler(prepared.source)
        self.steps = prepared.preset.danceopd.rollout_steps
        self.match_batch_size = prepared.preset.danceopd.match_batch_size
        self.guided = prepared.guided
        self.cache, self.latents, self.sources, self.device = cache, latents, sources, accelerator.device
        self.rank, self.world = accelerator.process_index, accelerator.num_processes
        self._sigmas: dict[tuple[int, int, int], torch.Tensor] = {}

    def __call__(self, route: str, step: int) -> list[Batch]:
        groups, total = self._groups(route, step)
        return [self._batch(route, size, micros, total) for (size, _), micros in groups.items()]

    def texts(self, route: str, step: int) -> list[list[str]]:
        """The prompts of each of these batches, as the conditions have them."""
        groups, _ = self._groups(route, step)
        return [[text for micro in micros for text in micro.texts] for micros in groups.values()]

    def _groups(self, route: str, step: int) -> tuple[dict[Alike, list[MicroBatch]], int]:
        """This process's share of each micro-batch by the sizes of result and source images; the step's samples."""
        planned = {part.route: part for part in self.plan.parts(step)}
        if route not in planned:
            raise ValueError(f"step {step} was planned for {', '.join(planned)}, not {route}")
        total = sum(len(part.texts) for part in planned.values())
        items = self.plan.routes[route].items
        alike: dict[Alike, list[MicroBatch]] = {}
        for micro in planned[route].micro_batches:
            sizes = (micro.width, micro.height), items[micro.item_ids[0]].source_sizes
            alike.setdefault(sizes, []).append(micro.slice(self.rank, self.world))
        return alike, total

    def _batch(self, route: str, size: Size, micros: list[MicroBatch], total: int) -> Batch:
        items = [self.plan.routes[route].items[number] for micro in micros for number in micro.item_ids]
        texts = [text for micro in micros for text in micro.texts]
        return Batch(
            condition=self.conditions(
                texts, EMPTY if self.guided else None, [item.source_images for item in items], size
            ),
            indices=[index for micro in micros for index in micro.indices],
            total=total,
            latent_shape=self.latent_shape(*size),
            sigmas=self.sigmas(*size, self.steps),
            match_batch_size=self.match_batch_size or max(len(micro) for micro in micros),
            targets=[self._target(item) for item in items] if self.latents else (),
        )

    def _target(self, item: Item) -> torch.Tensor | None:
        """The clean latents of an item's picture, where it has one."""
        return self.latents.get(item) if item.target else None

    def conditions(
        self,
        texts: Sequence[str],
        negative: str | None = EMPTY,
        sources: Sequence[Sequence[Path]] | None = None,
        drawn: Size | None = None,
    ) -> TextConditions:
        """The conditions of these prompts with their source images, on the device.

        `negative` is what guidance moves away from; None where nothing is guided. `drawn`: the size of the pictures,
        needed with `sources`.
        """
        sources = sources or [()] * len(texts)
        prompts = [Prompt(text, tuple(paths), drawn) for text, paths in zip(texts, sources, strict=True)]
        items = [self._condition(prompt, negative) for prompt in prompts]
        # where the empty prompt shows the source image, an edit has its own
        shared = not self.cache.sees_sources or any(not prompt.sources for prompt in prompts)
        empty = self.cache.get(negative or EMPTY) if shared else {}
        return TextConditions(items, empty).to(self.device)

    def _condition(self, prompt: Prompt, negative: str | None) -> PromptTensors:
        found = self.cache.get(*prompt)
        if not prompt.sources:
            return found
        latents = {f"{SOURCE}{i}": self.sources.get(path, prompt.drawn) for i, path in enumerate(prompt.sources)}
        own_empty = self.cache.sees_sources and negative is not None
        return edit_item(found, latents, self.cache.get(negative, *prompt[1:]) if own_empty else None)

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        return self.family.latent_shape(self.config, self.scale, width, height)

    def sigmas(self, width: int, height: int, steps: int) -> torch.Tensor:
        """The pipeline's own sigma grid for this picture size, [steps + 1] on the CPU."""
        key = (width, height, steps)
        if key not in self._sigmas:
            latent_hw = self.latent_shape(width, height)[1:]
            self._sigmas[key] = self.family.sigmas(self.scheduler, self.config, steps, latent_hw)
        return self._sigmas[key]

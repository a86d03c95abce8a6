"""Planned steps and the encodings of what they ask -> the method's batches, for one process."""

from __future__ import annotations

import torch

from danceopd_ext.data.items import Item, Size
from danceopd_ext.data.plan import MicroBatch, Plan, Prompt
from danceopd_ext.engine.conditions import Conditions, Encodings
from danceopd_ext.engine.model import Model
from danceopd_ext.engine.prompts import EMPTY
from danceopd_ext.method import Batch

#: the size of the result, and the sizes of the source images
Alike = tuple[Size, tuple[Size, ...]]


class StepData:
    """Gives the method a process's samples of a step, grouped by the sizes of result and source images.

    `rollout_steps`: solver steps from noise to clean. `match_batch_size`: samples of a forward of the gradient pass,
    by default a micro-batch. `guided`: whether a field that is asked has guidance in it. `rank`: the process, of
    `world`.
    """

    def __init__(
        self,
        plan: Plan,
        model: Model,
        encodings: Encodings,
        *,
        rollout_steps: int,
        match_batch_size: int | None = None,
        guided: bool = False,
        rank: int = 0,
        world: int = 1,
    ):
        self.plan, self.model, self.encodings = plan, model, encodings
        self.steps, self.match_batch_size = rollout_steps, match_batch_size
        self.negative = EMPTY if guided else None
        self.conditions = Conditions(model, encodings)
        self.rank, self.world = rank, world

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
        prompts = [Prompt(text, item.source_images, size) for text, item in zip(texts, items, strict=True)]
        return Batch(
            condition=self.conditions.of(prompts, self.negative),
            indices=[index for micro in micros for index in micro.indices],
            total=total,
            latent_shape=self.model.latent_shape(*size),
            sigmas=self.model.sigmas(*size, self.steps),
            match_batch_size=self.match_batch_size or max(len(micro) for micro in micros),
            clean_latents=[self._clean_latents(item) for item in items] if self.encodings.pictures else (),
        )

    def _clean_latents(self, item: Item) -> torch.Tensor | None:
        """The clean latents of an item's picture, if it has one."""
        return self.encodings.pictures.get(item) if item.picture else None

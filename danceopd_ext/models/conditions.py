"""Batches encoded prompts and source images: what velocities depend on besides latents and sigma.

A sample's condition is a dictionary of tensors without a batch axis, in the family's own names. Two prefixes mean the
same in every family: `source_` is the encoding of a source image, which guidance keeps; `negative_X` replaces X for
guidance if the empty prompt's X does not fit, as when the text encoder also sees the source image.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import torch

#: the encoders' output for one sample
PromptTensors = dict[str, torch.Tensor]

SOURCE = "source_"
NEGATIVE = "negative_"


@dataclass(frozen=True)
class TextConditions:
    """The conditions of a batch: one entry per sample, and the empty prompt's for guidance (see method.Condition)."""

    items: list[PromptTensors]
    empty: PromptTensors

    def __len__(self) -> int:
        return len(self.items)

    def select(self, indices: Sequence[int]) -> TextConditions:
        return TextConditions([self.items[i] for i in indices], self.empty)

    def unconditional(self) -> TextConditions:
        return TextConditions([_without_text(item, self.empty) for item in self.items], self.empty)

    def to(self, device: torch.device | str) -> TextConditions:
        def move(item: PromptTensors) -> PromptTensors:
            return {name: tensor.to(device, non_blocking=True) for name, tensor in item.items()}

        return TextConditions([move(item) for item in self.items], move(self.empty))


def _without_text(item: PromptTensors, empty: PromptTensors) -> PromptTensors:
    negative = {name.removeprefix(NEGATIVE): tensor for name, tensor in item.items() if name.startswith(NEGATIVE)}
    sources = {name: tensor for name, tensor in item.items() if name.startswith(SOURCE)}
    return {**(negative or empty), **sources}


def edit_item(text: PromptTensors, sources: PromptTensors, negative: PromptTensors | None = None) -> PromptTensors:
    """Return one sample's condition from its prompt, its source images and, if needed, the empty prompt.

    `negative`: the result of `encode_prompts` for the empty prompt with the same source images.
    """
    own = {f"{NEGATIVE}{name}": t for name, t in (negative or {}).items() if not name.startswith(SOURCE)}
    return {**text, **sources, **own}


def numbered(item: Mapping[str, torch.Tensor], prefix: str) -> list[torch.Tensor]:
    """Return all tensors `prefix0`, `prefix1`, ... of one sample."""
    found = []
    while f"{prefix}{len(found)}" in item:
        found.append(item[f"{prefix}{len(found)}"])
    return found


def rows_of_equal_shape(items: Sequence[PromptTensors], prefix: str = "") -> list[list[int]]:
    """Group samples whose tensors (those of this prefix) have the same shapes, to pass through a model together."""
    groups: dict[Hashable, list[int]] = {}
    for row, item in enumerate(items):
        shapes = tuple(sorted((name, tuple(t.shape)) for name, t in item.items() if name.startswith(prefix)))
        groups.setdefault(shapes, []).append(row)
    return list(groups.values())

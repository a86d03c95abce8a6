"""The velocity fields of a model: the base with an adapter on it, or a checkpoint that is streamed through the GPU."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch

from danceopd_ext.lora.adapters import Adapters
from danceopd_ext.models.conditions import TextConditions
from danceopd_ext.models.family import Family
from danceopd_ext.models.loading import stream

Autocast = Callable[[], AbstractContextManager]
"""Makes the context in which a transformer is called, such as accelerate's autocast."""


class AdapterField:
    """The velocity of the base with one adapter on it (None: the bare base).

    The adapter stays active after the call: gradient checkpointing computes the student's forward again in backward.
    The student's dropout works in the gradient pass only; a rollout is what the finished LoRA would do.
    """

    def __init__(self, family: Family, adapters: Adapters, name: str | None, autocast: Autocast):
        self.family, self.adapters, self.name, self.autocast = family, adapters, name, autocast
        transformer = adapters.transformer
        self.dropouts = [m for m in transformer.modules() if isinstance(m, torch.nn.Dropout) and m.p > 0]

    def __call__(self, latents: torch.Tensor, sigma: torch.Tensor, condition: TextConditions) -> torch.Tensor:
        self.adapters.activate(self.name)
        for dropout in self.dropouts:
            dropout.train(torch.is_grad_enabled())
        with self.autocast():
            return self.family.velocity(self.adapters.transformer, latents, sigma, condition).float()


class CheckpointField:
    """The velocity of a second transformer, which is kept off the device and streamed through it when asked."""

    def __init__(self, family: Family, transformer: torch.nn.Module, device: torch.device, autocast: Autocast):
        self.family, self.transformer, self.autocast = family, transformer, autocast
        if device.type != "cpu":
            stream(transformer, device)

    def __call__(self, latents: torch.Tensor, sigma: torch.Tensor, condition: TextConditions) -> torch.Tensor:
        with torch.no_grad(), self.autocast():
            return self.family.velocity(self.transformer, latents, sigma, condition).float()


def same_weights(base: torch.nn.Module, tuned: torch.nn.Module) -> bool:
    """Return whether a checkpoint is the base, which may have adapters on it; stops at the first difference."""
    own = {name.replace(".base_layer.", "."): weight for name, weight in base.named_parameters()}
    pairs = ((own[name], weight) for name, weight in tuned.named_parameters() if name in own)
    return all(before.shape == after.shape and after.to(before).equal(before) for before, after in pairs)

"""What a model family has to say about itself. Everything else in the project knows no architecture.

Shape suffixes: B samples, C latent channels, H and W latent height and width, N solver steps.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from danceopd_ext.models.layer_names import LayerNames

#: what the text encoders give for one prompt: the family's own names -> tensors without a batch axis
PromptTensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class TextConditions:
    """The conditions of a batch: one entry a sample, and the empty prompt's for guidance (see method.Condition)."""

    items: list[PromptTensors]
    empty: PromptTensors

    def __len__(self) -> int:
        return len(self.items)

    def select(self, indices: Sequence[int]) -> TextConditions:
        return TextConditions([self.items[i] for i in indices], self.empty)

    def unconditional(self) -> TextConditions:
        return TextConditions([self.empty] * len(self.items), self.empty)

    def to(self, device: torch.device | str) -> TextConditions:
        def move(item: PromptTensors) -> PromptTensors:
            return {name: tensor.to(device, non_blocking=True) for name, tensor in item.items()}

        return TextConditions([move(item) for item in self.items], move(self.empty))


@dataclass(frozen=True)
class SizeLimits:
    """Image sizes that the model takes, in pixels: a multiple of `multiple` up to `maximum` on each side."""

    multiple: int
    maximum: int


class Family(LayerNames, ABC):
    """One architecture: how to load it, its sigma grid, its latents, its velocity and its layers' names.

    `name` is the preset's model_type.
    """

    #: class names in diffusers
    pipeline_class: str
    transformer_class: str
    #: hub id that supplies what a single .safetensors file does not contain
    default_components: str
    #: substrings of tensor names that only this family's checkpoints have
    checkpoint_marks: tuple[str, ...]

    @abstractmethod
    def encode_prompts(self, pipeline: Any, prompts: list[str]) -> list[PromptTensors]:
        """What the pipeline's own text encoders give for each prompt, on the CPU."""

    @abstractmethod
    def velocity(
        self, transformer: torch.nn.Module, z_BCHW: torch.Tensor, sigma_B: torch.Tensor, condition: TextConditions
    ) -> torch.Tensor:
        """dz/dsigma [B, C, H, W] at noise level sigma in 0..1 (1 is pure noise)."""

    @abstractmethod
    def scheduler_arguments(self, scheduler: Any, transformer_config: Mapping, steps: int, latent_hw: tuple) -> dict:
        """What the family's pipeline passes to `scheduler.set_timesteps` for this latent size."""

    @abstractmethod
    def size_limits(self, transformer_config: Mapping, vae_scale_factor: int) -> SizeLimits: ...

    def select_attention(self, transformer: torch.nn.Module, name: str) -> None:
        """Use the attention backend `name` (diffusers' names; "sdpa" is torch's own). Raises ValueError."""
        if name != "sdpa":
            transformer.set_attention_backend(name)

    def sigmas(self, scheduler: Any, transformer_config: Mapping, steps: int, latent_hw: tuple[int, int]):
        """The pipeline's own sigma grid [N + 1] for this latent size, falling to 0, float32."""
        scheduler = copy.deepcopy(scheduler)
        scheduler.set_timesteps(**self.scheduler_arguments(scheduler, transformer_config, steps, latent_hw))
        return scheduler.sigmas.float().cpu()

    def latent_shape(self, transformer_config: Mapping, vae_scale_factor: int, width: int, height: int):
        """(C, H, W) of the latents of a picture of width x height pixels."""
        return transformer_config["in_channels"], height // vae_scale_factor, width // vae_scale_factor


def flow_match_shift(config: Mapping, image_tokens: int, default_max_shift: float) -> float:
    """mu of the resolution-dependent shift, linear in the number of image tokens (as diffusers' pipelines have it)."""
    low, high = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    base, top = config.get("base_shift", 0.5), config.get("max_shift", default_max_shift)
    slope = (top - base) / (high - low)
    return image_tokens * slope + base - slope * low

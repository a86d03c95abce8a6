"""What families have in common whose transformers take samples of one shape at a time, or squares of latents as tokens.

Shape suffixes: B samples, C latent channels, H and W latent height and width.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch

from danceopd_ext.models.conditions import PromptTensors, TextConditions
from danceopd_ext.models.family import Family, SizeLimits, flow_match_shift
from danceopd_ext.models.packing import even_sigmas, in_groups


class GroupedFamily(Family):
    """A family whose transformer takes samples together only if their conditions have the same shapes."""

    #: the beginning of the names of conditions that must agree; "" for all
    grouped_by = ""

    def velocity(
        self, transformer: torch.nn.Module, z_BCHW: torch.Tensor, sigma_B: torch.Tensor, condition: TextConditions
    ) -> torch.Tensor:
        return in_groups(partial(self._velocity, transformer), z_BCHW, sigma_B, condition, self.grouped_by)

    @abstractmethod
    def _velocity(
        self, transformer: torch.nn.Module, z_BCHW: torch.Tensor, sigma_B: torch.Tensor, items: Sequence[PromptTensors]
    ) -> torch.Tensor:
        """The velocity [B, C, H, W] of samples that agree."""


class PackedFamily(GroupedFamily):
    """A family whose transformer takes each square of 2 x 2 latents as a token, and whose grid depends on their number.

    Pictures can have any size up to 4096: positions have no table, or one that reaches further.
    """

    def scheduler_arguments(self, scheduler: Any, transformer_config: Mapping, steps: int, latent_hw: tuple) -> dict:
        tokens = (latent_hw[0] // 2) * (latent_hw[1] // 2)
        mu = flow_match_shift(scheduler.config, tokens, default_max_shift=1.15)
        return {"sigmas": even_sigmas(steps), "mu": mu}

    def latent_shape(self, transformer_config: Mapping, vae_scale_factor: int, width: int, height: int):
        return transformer_config["in_channels"] // 4, height // vae_scale_factor, width // vae_scale_factor

    def size_limits(self, transformer_config: Mapping, vae_scale_factor: int) -> SizeLimits:
        return SizeLimits(multiple=2 * vae_scale_factor, maximum=4096)

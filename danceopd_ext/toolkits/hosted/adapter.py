"""Defines what an architecture of a toolkit must provide so that the method's update runs on its trainer."""

from __future__ import annotations

from typing import Protocol

import torch

from danceopd_ext.toolkits.hosted.conditions import Conditions


class Adapter(Protocol):
    """Three functions; everything else is the same for all architectures of both toolkits.

    An adapter may also have `guided(field, guidance_scale) -> Field`, if its toolkit's sampler does more than the plain
    formula (`method.guided`).

    Shape suffixes: B samples, N solver steps.
    """

    def condition(self, *given, routes: list[str]) -> Conditions:
        """Return a batch's texts and source images, as the toolkit's seam gets them, as the method's condition."""
        ...

    def velocity(self, transformer: torch.nn.Module, z_B: torch.Tensor, sigma_B: torch.Tensor, condition: Conditions):
        """Return dz/dsigma [B, ...] at noise level sigma in 0..1 (1 is pure noise), as in the toolkit's own sampler."""
        ...

    def sigmas(self, steps: int, latent_shape: tuple[int, ...]) -> torch.Tensor:
        """Return the toolkit's own sampling grid [N + 1], from 1 to 0, for latents of this shape (without batch)."""
        ...

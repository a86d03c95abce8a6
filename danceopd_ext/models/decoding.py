"""Pictures to latents and back. Latents are in the transformer's scale, [B, C, H, W], whatever the VAE.

Shape suffixes: B samples, C latent channels, H and W latent height and width.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from danceopd_ext.models.latent_scale import LatentScale
from danceopd_ext.models.registry import FAMILIES


class NotFinite(Exception):
    """Where the numbers of a picture should be, there is NaN or infinity: the model is broken, or fp16 too narrow."""


@torch.no_grad()
def decode(vae: Any, latents_BCHW: torch.Tensor) -> np.ndarray:
    """The pictures uint8 [B, height, width, 3] of latents, as the pipelines decode them; black where they are NaN."""
    return _bytes(_pixels(vae, latents_BCHW))


@torch.no_grad()
def decode_finite(vae: Any, latents_BCHW: torch.Tensor) -> np.ndarray:
    """As `decode`. Raises NotFinite for latents or pixels that are not finite: black would pass for drawn."""
    if not latents_BCHW.isfinite().all():
        raise NotFinite
    pixels = _pixels(vae, latents_BCHW)
    if not pixels.isfinite().all():  # the VAE computes in its own, narrower dtype
        raise NotFinite
    return _bytes(pixels)


def _pixels(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    return _scale(vae).decode(vae, latents.to(vae.device, vae.dtype)).float()


def _bytes(pixels: torch.Tensor) -> np.ndarray:
    pixels = pixels.nan_to_num(nan=-1.0).clamp(-1, 1)
    return ((pixels + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()


@torch.no_grad()
def encode(vae: Any, pixels: torch.Tensor) -> torch.Tensor:
    """The latents [B, C, H, W] of pictures [B, 3, height, width] in -1..1: the middle of the VAE's distribution."""
    return _scale(vae).encode(vae, pixels.to(vae.device, vae.dtype))


def _scale(vae: Any) -> LatentScale:
    """The scale of the family that the VAE was loaded for; of another VAE, that of the first family with its class."""
    if isinstance(scale := getattr(vae, "latent_scale", None), LatentScale):
        return scale
    scales = (family.latent_scale for family in FAMILIES.values() if family.vae_class == type(vae).__name__)
    return next(scales, LatentScale())

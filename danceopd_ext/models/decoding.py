"""Encodes pictures to latents and decodes them. Latents are in the transformer's scale, [B, C, H, W], for every VAE.

Shape suffixes: B samples, C latent channels, H and W latent height and width.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from danceopd_ext.models.latent_scale import LatentScale
from danceopd_ext.models.registry import FAMILIES

#: pixels of a tile's side: a picture of 1024 then takes about a quarter of the memory
TILE = 512


class NotFinite(Exception):
    """The numbers of a picture are NaN or infinite: the model is broken, or the range of fp16 is too small."""


@torch.no_grad()
def decode(vae: Any, latents_BCHW: torch.Tensor) -> np.ndarray:
    """Return pictures uint8 [B, height, width, 3] of latents, as the pipelines decode them; black if they are NaN."""
    return _bytes(_pixels(vae, latents_BCHW))


@torch.no_grad()
def decode_finite(vae: Any, latents_BCHW: torch.Tensor) -> np.ndarray:
    """Do the same as `decode`.

    Raises NotFinite for latents or pixels that are not finite, as black would look drawn.
    """
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


def tile(vae: Any) -> None:
    """Let a VAE of diffusers decode larger pictures in tiles, which overlap by a quarter and are blended.

    It needs the memory of a tile instead of that of the picture.
    """
    if hasattr(vae, "tile_sample_min_height"):  # AutoencoderKLQwenImage
        vae.enable_tiling(TILE, TILE, TILE * 3 // 4, TILE * 3 // 4)
        return
    vae.enable_tiling()
    vae.tile_sample_min_size = TILE
    vae.tile_latent_min_size = TILE // _scale(vae).pixels_per_latent(vae.config)


@torch.no_grad()
def encode(vae: Any, pixels: torch.Tensor) -> torch.Tensor:
    """Return latents [B, C, H, W] of pictures [B, 3, height, width] in -1..1: the mode of the VAE's distribution."""
    return _scale(vae).encode(vae, pixels.to(vae.device, vae.dtype))


def _scale(vae: Any) -> LatentScale:
    """Return the scale of the family that the VAE was loaded for; otherwise that of the first family with its class."""
    if isinstance(scale := getattr(vae, "latent_scale", None), LatentScale):
        return scale
    scales = (family.latent_scale for family in FAMILIES.values() if family.vae_class == type(vae).__name__)
    return next(scales, LatentScale())

"""Pictures to latents and back. Latents are in the transformer's scale, [B, C, H, W], whatever the VAE.

Shape suffixes: B samples, C latent channels, H and W latent height and width.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


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


def pixels_per_latent(vae_class: str, config: Any) -> int:
    """How many pixels one latent of this VAE is wide, from its configuration."""
    if vae_class == "AutoencoderKLQwenImage":
        return 2 ** len(config["temperal_downsample"])
    return 2 ** (len(config["block_out_channels"]) - 1)


class _Shifted:
    """AutoencoderKL: one factor and one shift."""

    @staticmethod
    def decode(vae: Any, latents: torch.Tensor) -> torch.Tensor:
        latents = latents / vae.config.scaling_factor + (vae.config.shift_factor or 0.0)
        return vae.decode(latents, return_dict=False)[0]

    @staticmethod
    def encode(vae: Any, pixels: torch.Tensor) -> torch.Tensor:
        latents = vae.encode(pixels).latent_dist.mode()
        return (latents - (vae.config.shift_factor or 0.0)) * vae.config.scaling_factor


class _OfFrames:
    """AutoencoderKLQwenImage: a video VAE, here of one frame, with a mean and a deviation for each channel."""

    @staticmethod
    def _statistics(vae: Any, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        both = (vae.config.latents_mean, vae.config.latents_std)
        mean, deviation = (torch.tensor(values).view(1, -1, 1, 1, 1).to(like) for values in both)
        return mean, deviation

    @classmethod
    def decode(cls, vae: Any, latents: torch.Tensor) -> torch.Tensor:
        mean, deviation = cls._statistics(vae, latents)
        # the pipeline divides by the inverse of the deviation, which rounds differently from a product
        latents = latents.unsqueeze(2) / (1.0 / deviation) + mean
        return vae.decode(latents, return_dict=False)[0][:, :, 0]

    @classmethod
    def encode(cls, vae: Any, pixels: torch.Tensor) -> torch.Tensor:
        latents = vae.encode(pixels.unsqueeze(2)).latent_dist.mode()
        mean, deviation = cls._statistics(vae, latents)
        return ((latents - mean) / deviation).squeeze(2)


class _OfSquares:
    """AutoencoderKLFlux2: squares of 2 x 2 latents become channels, which a batch norm brings to one scale."""

    @staticmethod
    def _statistics(vae: Any, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean = vae.bn.running_mean.view(1, -1, 1, 1).to(like)
        return mean, torch.sqrt(vae.bn.running_var.view(1, -1, 1, 1) + vae.config.batch_norm_eps).to(like)

    @classmethod
    def decode(cls, vae: Any, latents: torch.Tensor) -> torch.Tensor:
        mean, deviation = cls._statistics(vae, latents)
        return vae.decode(torch.pixel_shuffle(latents * deviation + mean, 2), return_dict=False)[0]

    @classmethod
    def encode(cls, vae: Any, pixels: torch.Tensor) -> torch.Tensor:
        latents = torch.pixel_unshuffle(vae.encode(pixels).latent_dist.mode(), 2)
        mean, deviation = cls._statistics(vae, latents)
        return (latents - mean) / deviation


def _scale(vae: Any) -> type:
    return {"AutoencoderKLQwenImage": _OfFrames, "AutoencoderKLFlux2": _OfSquares}.get(type(vae).__name__, _Shifted)

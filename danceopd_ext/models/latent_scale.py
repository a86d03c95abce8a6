"""Converts a VAE's latents to the scale of the family's transformer, and back.

Shape suffixes: B samples, C latent channels, H and W latent height and width, P and Q height and width in pixels.
"""

from __future__ import annotations

from typing import Any

import torch


class LatentScale:
    """AutoencoderKL's scale: one factor and one shift. A family with another VAE defines a subclass.

    Latents are [B, C, H, W] whatever the VAE has; pixels are [B, 3, P, Q] in -1..1.
    """

    def decode(self, vae: Any, latents_BCHW: torch.Tensor) -> torch.Tensor:
        """Return the pixels of latents, as the family's pipeline decodes them."""
        latents = latents_BCHW / vae.config.scaling_factor + (vae.config.shift_factor or 0.0)
        return vae.decode(latents, return_dict=False)[0]

    def encode(self, vae: Any, pixels_B3PQ: torch.Tensor) -> torch.Tensor:
        """Return the latents of pixels: the mode of the VAE's distribution."""
        latents = vae.encode(pixels_B3PQ).latent_dist.mode()
        return (latents - (vae.config.shift_factor or 0.0)) * vae.config.scaling_factor

    def pixels_per_latent(self, config: Any) -> int:
        """Return how many pixels wide one latent of the VAE is, from its configuration."""
        return 2 ** (len(config["block_out_channels"]) - 1)

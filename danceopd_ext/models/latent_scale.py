"""From a VAE's latents to the transformer's and back: the scale in which a family's transformer has them.

Shape suffixes: B samples, C latent channels, H and W latent height and width, P and Q height and width in pixels.
"""

from __future__ import annotations

from typing import Any

import torch


class LatentScale:
    """AutoencoderKL's: one factor and one shift. A family with another VAE has a subclass beside it.

    Latents are [B, C, H, W] whatever the VAE has; pixels are [B, 3, P, Q] in -1..1.
    """

    def decode(self, vae: Any, latents_BCHW: torch.Tensor) -> torch.Tensor:
        """The pixels of latents, as the family's pipeline decodes them."""
        latents = latents_BCHW / vae.config.scaling_factor + (vae.config.shift_factor or 0.0)
        return vae.decode(latents, return_dict=False)[0]

    def encode(self, vae: Any, pixels_B3PQ: torch.Tensor) -> torch.Tensor:
        """The latents of pixels: the middle of the VAE's distribution."""
        latents = vae.encode(pixels_B3PQ).latent_dist.mode()
        return (latents - (vae.config.shift_factor or 0.0)) * vae.config.scaling_factor

    def pixels_per_latent(self, config: Any) -> int:
        """How many pixels one latent of the VAE is wide, from its configuration."""
        return 2 ** (len(config["block_out_channels"]) - 1)

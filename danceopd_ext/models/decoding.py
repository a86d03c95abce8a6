"""Latents to pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


@torch.no_grad()
def decode(vae: Any, latents_BCHW: torch.Tensor) -> np.ndarray:
    """The pictures uint8 [B, H, W, 3] of latents in the transformer's scale, as the pipelines decode them."""
    latents = latents_BCHW.to(vae.device, vae.dtype)
    latents = latents / vae.config.scaling_factor + (vae.config.shift_factor or 0.0)
    pixels = vae.decode(latents, return_dict=False)[0].float().clamp(-1, 1)
    return ((pixels + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()

"""Computes guidance of pipelines that do more than the plain formula (`method.guided`)."""

from __future__ import annotations

import torch

from danceopd_ext.method import Condition, Field, guided
from danceopd_ext.models.packing import pack, unpack


def keeping_length(field: Field, guidance_scale: float) -> Field:
    """Guidance that keeps the length of each token's velocity with the text alone, as in Qwen-Image's pipelines.

    A token is a square of 2 x 2 latents. Latents [B, C, H, W], or [B, C, 1, H, W] if the model has a frame axis.
    A scale of 1 or less is the plain formula, as there.
    """
    plain = guided(field, guidance_scale)
    if guidance_scale <= 1.0:
        return plain

    def rescaled(latents: torch.Tensor, sigma: torch.Tensor, condition: Condition) -> torch.Tensor:
        with_text = field(latents, sigma, condition)
        without = field(latents, sigma, condition.unconditional())
        tokens = _tokens(without + guidance_scale * (with_text - without))
        length = _tokens(with_text).norm(dim=-1, keepdim=True) / tokens.norm(dim=-1, keepdim=True)
        return unpack(tokens * length, *latents.shape[-2:]).view_as(latents)

    rescaled.forwards = plain.forwards  # the cost of an update is counted by this
    return rescaled


def _tokens(latents: torch.Tensor) -> torch.Tensor:
    return pack(latents.squeeze(2) if latents.ndim == 5 else latents)

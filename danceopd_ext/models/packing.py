"""Packs latents into rows of tokens, as FLUX.1 and Qwen-Image take them: a token is a square of 2 x 2 latents.

Shape suffixes: B samples, C channels, H and W latent height and width, T tokens (H/2 * W/2), K = 4 C.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from danceopd_ext.models.conditions import SOURCE, PromptTensors, TextConditions, numbered, rows_of_equal_shape

#: (latents [B, C, H, W], sigma [B], conditions of these samples) -> velocity [B, C, H, W]
Group = Callable[[torch.Tensor, torch.Tensor, Sequence[PromptTensors]], torch.Tensor]


def pack(z_BCHW: torch.Tensor) -> torch.Tensor:
    """Pack latents into tokens [B, T, K], row by row."""
    batch, channels, height, width = z_BCHW.shape
    squares = z_BCHW.unflatten(3, (width // 2, 2)).unflatten(2, (height // 2, 2))
    return squares.permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, channels * 4)


def unpack(tokens_BTK: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Undo `pack` for latents of this height and width."""
    squares = tokens_BTK.unflatten(2, (-1, 2, 2)).unflatten(1, (height // 2, width // 2))
    return squares.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)


def in_groups(
    velocity: Group, z_BCHW: torch.Tensor, sigma_B: torch.Tensor, condition: TextConditions, prefix: str = ""
) -> torch.Tensor:
    """Call `velocity` once for each set of samples whose tensors of this prefix have equal shapes; float32.

    If a model takes one shape at a time, each sample then gets the same result as alone.
    """
    groups = rows_of_equal_shape(condition.items, prefix)
    if len(groups) == 1:
        return velocity(z_BCHW, sigma_B, condition.items).float()
    answer = torch.empty(z_BCHW.shape, dtype=torch.float32, device=z_BCHW.device)
    for rows in groups:
        answer = answer.index_copy(
            0,
            torch.tensor(rows, device=answer.device),
            velocity(z_BCHW[rows], sigma_B[rows], [condition.items[row] for row in rows]).float(),
        )
    return answer


def stacked(items: Sequence[PromptTensors], name: str, dtype: torch.dtype) -> torch.Tensor:
    """Return one tensor of all samples, with a batch axis."""
    return torch.stack([item[name] for item in items]).to(dtype)


def with_sources(z_BCHW: torch.Tensor, items: Sequence[PromptTensors]) -> list[torch.Tensor]:
    """The latents, then those of the samples' source images in their order, each [B, C, H, W]."""
    count = len(numbered(items[0], SOURCE))
    return [z_BCHW, *(stacked(items, f"{SOURCE}{i}", z_BCHW.dtype) for i in range(count))]


def even_sigmas(steps: int) -> np.ndarray:
    """Return the sigmas from 1 to 1 / steps that pipelines pass to their scheduler, which shifts them and adds 0."""
    return np.linspace(1.0, 1 / steps, steps)

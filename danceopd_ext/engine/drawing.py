"""Draws pictures with a velocity field: the same sampler for previews, evaluation and the demo."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from danceopd_ext.method import Field, rollout
from danceopd_ext.models.conditions import TextConditions
from danceopd_ext.models.decoding import decode_finite

Decode = Callable[[Any, torch.Tensor], np.ndarray]


@torch.no_grad()
def draw(
    field: Field,
    vae: Any,
    noise_BCHW: torch.Tensor,
    sigmas: torch.Tensor,
    condition: TextConditions,
    decode: Decode = decode_finite,
) -> np.ndarray:
    """Return the pictures, uint8 [B, height, width, 3], to which the field leads from this noise.

    `sigmas`: the pipeline's grid [steps + 1], falling to 0. `decode`: see models.decoding. Raises NotFinite.
    """
    end = torch.full((len(noise_BCHW), 1), len(sigmas) - 1)
    return decode(vae, rollout(field, noise_BCHW, sigmas, condition, end)[:, 0])

"""FLUX.2 (dev and Klein) in musubi-tuner. Latents are [B, 128, H, W]; source images `latents_control_0`, `_1`, ..."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from danceopd_ext.toolkits.hosted.conditions import Entry
from danceopd_ext.toolkits.musubi.adapter import DitAdapter


class Flux2(DitAdapter):
    """The transformer gives dz/dsigma as it is.

    The embedded guidance of FLUX.2-dev is 1, as in the toolkit's own training; its sampler's is 4. Klein has none.
    """

    empty_prompt = " "

    @staticmethod
    def complete(args: Any) -> None:
        args.dit_dtype, args.vae_dtype = None, args.vae_dtype or "float32"

    def sigmas(self, steps: int, latent_shape: tuple[int, ...]) -> torch.Tensor:
        from musubi_tuner.flux_2.flux2_utils import get_schedule

        return torch.tensor(get_schedule(steps, latent_shape[-2] * latent_shape[-1]))

    def text_entries(self, sample_parameter: Mapping[str, Any]) -> dict[str, Entry]:
        return {"ctx_vec": sample_parameter["ctx_vec"]}

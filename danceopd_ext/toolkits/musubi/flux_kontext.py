"""FLUX.1 Kontext in musubi-tuner. Latents are [B, 16, H, W]; one source image, `latents_control`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from danceopd_ext.toolkits.hosted.conditions import Conditions, Entry
from danceopd_ext.toolkits.musubi.adapter import DitAdapter


class FluxKontext(DitAdapter):
    """The transformer gives dz/dsigma as it is.

    The embedded guidance is 1, as in the toolkit's own training, for student and teachers alike; its sampler's is 2.5.
    """

    @staticmethod
    def complete(args: Any) -> None:
        args.dit_dtype, args.vae_dtype = None, args.vae_dtype or "bfloat16"

    def condition(
        self, batch: Mapping[str, Entry], routes: Sequence[str], empty: Mapping[str, Entry] | None = None
    ) -> Conditions:
        if "latents_control" not in batch:
            # text to image: a source image without pixels adds no tokens, which is the sampler without an image
            batch = {**batch, "latents_control": batch["latents"][:, :, :0, :0]}
        return super().condition(batch, routes, empty)

    def sigmas(self, steps: int, latent_shape: tuple[int, ...]) -> torch.Tensor:
        from musubi_tuner.flux.flux_utils import get_schedule

        tokens = (latent_shape[-2] // 2) * (latent_shape[-1] // 2)
        return torch.tensor(get_schedule(steps, tokens))

    def text_entries(self, sample_parameter: Mapping[str, Any]) -> dict[str, Entry]:
        return {name: sample_parameter[name] for name in ("t5_vec", "clip_l_pooler")}

"""Qwen-Image and Qwen-Image-Edit in musubi-tuner.

Latents are [B, 16, 1, H, W]; source images are `latents_control_0`, `latents_control_1`, ...
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy
import torch

from danceopd_ext.errors import UserError
from danceopd_ext.toolkits.hosted.conditions import Entry
from danceopd_ext.toolkits.musubi.adapter import DitAdapter


class QwenImage(DitAdapter):
    """The transformer gives dz/dsigma as it is. Texts are a list, each of its own length; padding is masked."""

    empty_prompt = " "

    @staticmethod
    def complete(args: Any) -> None:
        from musubi_tuner.qwen_image.qwen_image_utils import resolve_model_version_args

        args.dit_dtype, args.vae_dtype = "bfloat16", args.vae_dtype or "bfloat16"
        try:
            resolve_model_version_args(args)
        except ValueError as error:
            raise UserError(f'model_version = "{args.model_version}": {error}') from None
        if args.is_layered:
            raise UserError(
                'model_version = "layered" makes several pictures at once, which the method is not made for. Use '
                '"original", "edit", "edit-2509" or "edit-2511" with the model that belongs to it.'
            )

    def sigmas(self, steps: int, latent_shape: tuple[int, ...]) -> torch.Tensor:
        from musubi_tuner.qwen_image import qwen_image_utils as utils

        tokens = (latent_shape[-2] // 2) * (latent_shape[-1] // 2)
        scheduler = utils.get_scheduler(None)
        evenly, mu = numpy.linspace(1.0, 1 / steps, steps), utils.calculate_shift_qwen_image(tokens)
        utils.retrieve_timesteps(scheduler, steps, "cpu", sigmas=evenly, mu=mu)
        return scheduler.sigmas

    def text_entries(self, sample_parameter: Mapping[str, Any]) -> dict[str, Entry]:
        return {"vl_embed": list(sample_parameter["vl_embed"])}

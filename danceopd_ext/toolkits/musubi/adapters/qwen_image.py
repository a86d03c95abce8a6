"""Runs the method on Qwen-Image and Qwen-Image-Edit in musubi-tuner.

Latents are [B, 16, 1, H, W]; source images are `latents_control_0`, `latents_control_1`, ... Texts are a list with
different lengths, and padding is masked, so a sample is the same alone and in a batch.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy
import torch

from danceopd_ext.errors import UserError
from danceopd_ext.method import Field
from danceopd_ext.models.guidance import keeping_length
from danceopd_ext.models.registry import FAMILIES
from danceopd_ext.toolkits.hosted.architecture import Architecture
from danceopd_ext.toolkits.musubi.adapter import MusubiAdapter

EDITS = ("edit", "edit-2509", "edit-2511")


class QwenImageAdapter(MusubiAdapter):
    """The transformer returns dz/dsigma directly."""

    text_options = ("model_version", "fp8_vl")

    @classmethod
    def complete(cls, args: argparse.Namespace) -> None:
        from musubi_tuner.qwen_image.qwen_image_utils import resolve_model_version_args

        args.dit_dtype, args.vae_dtype = "bfloat16", args.vae_dtype or "bfloat16"
        given = args.model_version
        try:
            version = resolve_model_version_args(args)
        except ValueError as error:
            raise UserError(f'model_version = "{given}": {error}') from None
        cls.check_version(version)

    @classmethod
    def check_version(cls, version: str) -> None:
        """Raise UserError unless this model_version is one of the model_type's."""
        if version == "layered":
            raise UserError(
                'model_version = "layered": this model makes several pictures at once, which the method does not '
                "support. Use another Qwen-Image model."
            )
        if version != "original":
            raise UserError(
                f'model_version = "{version}" is an editing model: write model_type = "qwen_image_edit", or remove '
                "model_version."
            )

    def sigmas(self, steps: int, latent_shape: tuple[int, ...]) -> torch.Tensor:
        from musubi_tuner.qwen_image import qwen_image_utils as utils

        tokens = (latent_shape[-2] // 2) * (latent_shape[-1] // 2)
        evenly, mu = numpy.linspace(1.0, 1 / steps, steps), utils.calculate_shift_qwen_image(tokens)
        scheduler = utils.get_scheduler(self.flow_shift)
        utils.retrieve_timesteps(scheduler, steps, "cpu", sigmas=evenly, mu=mu)
        return scheduler.sigmas

    def guided(self, field: Field, guidance_scale: float) -> Field:
        """Apply guidance as musubi's sampler does: Qwen-Image has its own formula."""
        return keeping_length(field, guidance_scale)

    def latent_shape(self, width: int, height: int) -> tuple[int, ...]:
        return 16, 1, height // 8, width // 8

    def text_encoder(self, device: torch.device) -> Callable[[list[Any]], None]:
        from musubi_tuner import qwen_image_cache_text_encoder_outputs as cache
        from musubi_tuner.qwen_image import qwen_image_utils as utils

        fp8, version = self.args.fp8_vl, self.args.model_version
        dtype = torch.float8_e4m3fn if fp8 else torch.bfloat16
        tokenizer, encoder = utils.load_qwen2_5_vl(self.args.text_encoder, dtype, device, disable_mmap=True)
        encoder.eval()
        # prompts here have no source image, and are encoded as in Qwen-Image
        autocast = SimpleNamespace(autocast=lambda: torch.autocast(device.type, torch.bfloat16)) if fp8 else None
        return lambda items: cache.encode_and_save_batch(tokenizer, encoder, None, version, items, device, autocast)


class QwenImageEditAdapter(QwenImageAdapter):
    """Qwen-Image-Edit, -2509 (Plus) and -2511. Without a source image it makes a picture from text."""

    text_sees_sources = True

    @classmethod
    def check_version(cls, version: str) -> None:
        if version not in EDITS:
            raise UserError(
                f'model_type = "qwen_image_edit": set model_version to one of '
                f"{', '.join(EDITS)}. These models read texts and source images in different ways."
            )


QWEN_IMAGE = Architecture(
    model_type="qwen_image",
    names=FAMILIES["qwen_image"],
    script="musubi_tuner.qwen_image_train_network",
    trainer="QwenImageNetworkTrainer",
    parser="qwen_image_setup_parser",
    network_module="networks.lora_qwen_image",
    adapter=QwenImageAdapter,
)

QWEN_IMAGE_EDIT = replace(
    QWEN_IMAGE,
    model_type="qwen_image_edit",
    title=FAMILIES["qwen_image_edit"].title,
    adapter=QwenImageEditAdapter,
)

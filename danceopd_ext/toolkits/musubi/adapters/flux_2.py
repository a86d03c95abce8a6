"""Runs the method on FLUX.2 (dev and Klein) in musubi-tuner.

Latents are [B, 128, H, W]; source images are `latents_control_0`, ...
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch

from danceopd_ext.errors import UserError
from danceopd_ext.models.flux_2 import Flux2
from danceopd_ext.models.registry import FAMILIES
from danceopd_ext.toolkits.hosted.architecture import Architecture
from danceopd_ext.toolkits.musubi.adapter import MusubiAdapter


class Flux2Adapter(MusubiAdapter):
    """The transformer returns dz/dsigma directly. dev takes a guidance, the same for student and teachers."""

    text_options = ("model_version", "fp8_text_encoder")
    embedded_guidance = Flux2.embedded_guidance

    @classmethod
    def complete(cls, args: argparse.Namespace) -> None:
        args.dit_dtype, args.vae_dtype = None, args.vae_dtype or "float32"
        if args.fp8_text_encoder and not args.model_version.startswith("klein"):
            raise UserError(
                f'fp8_text_encoder: musubi-tuner cannot run the text encoder of model_version = "{args.model_version}" '
                "in fp8, only that of Klein. Remove it."
            )

    @classmethod
    def usual_guidance(cls, args: argparse.Namespace) -> float | None:
        return None if args.model_version.startswith("klein") else cls.embedded_guidance

    def sigmas(self, steps: int, latent_shape: tuple[int, ...]) -> torch.Tensor:
        from musubi_tuner.flux_2.flux2_utils import get_schedule

        return torch.tensor(get_schedule(steps, latent_shape[-2] * latent_shape[-1], self.flow_shift))

    def latent_shape(self, width: int, height: int) -> tuple[int, ...]:
        return 128, height // 16, width // 16

    def text_encoder(self, device: torch.device) -> Callable[[list[Any]], None]:
        from musubi_tuner import flux_2_cache_text_encoder_outputs as cache
        from musubi_tuner.flux_2 import flux2_utils

        version = flux2_utils.FLUX2_MODEL_INFO[self.args.model_version]
        dtype = torch.float8_e4m3fn if self.args.fp8_text_encoder else torch.bfloat16
        encoder = flux2_utils.load_text_embedder(version, self.args.text_encoder, dtype, device, disable_mmap=True)
        encoder.eval()
        return lambda items: cache.encode_and_save_batch(encoder, items, device, version.architecture_full)


FLUX_2 = Architecture(
    model_type="flux_2",
    names=FAMILIES["flux_2"],
    script="musubi_tuner.flux_2_train_network",
    trainer="Flux2NetworkTrainer",
    parser="flux2_setup_parser",
    network_module="networks.lora_flux_2",
    adapter=Flux2Adapter,
)

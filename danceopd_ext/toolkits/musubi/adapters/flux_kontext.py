"""Runs the method on FLUX.1 Kontext in musubi-tuner.

Latents are [B, 16, H, W]; the one source image is `latents_control`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import Any

import torch

from danceopd_ext.models.flux import FluxKontext
from danceopd_ext.models.registry import FAMILIES, names_of
from danceopd_ext.toolkits.hosted.architecture import Architecture
from danceopd_ext.toolkits.hosted.conditions import Conditions
from danceopd_ext.toolkits.musubi.adapter import MusubiAdapter


class FluxKontextAdapter(MusubiAdapter):
    """The transformer returns dz/dsigma directly. Student and teachers get the same guidance."""

    empty_prompt = ""
    text_encoder_arguments = ("text_encoder1", "text_encoder2")
    text_options = ("fp8_t5",)
    embedded_guidance = FluxKontext.embedded_guidance

    @classmethod
    def complete(cls, args: argparse.Namespace) -> None:
        args.dit_dtype, args.vae_dtype = None, args.vae_dtype or "bfloat16"

    def condition(self, batch: Mapping[str, Any], routes: list[str]) -> Conditions:
        if "latents_control" not in batch:
            # text to image: a source image without pixels adds no tokens, as in the sampler without an image
            batch = {**batch, "latents_control": batch["latents"][:, :, :0, :0]}
        return super().condition(batch, routes)

    def sigmas(self, steps: int, latent_shape: tuple[int, ...]) -> torch.Tensor:
        from musubi_tuner.flux.flux_utils import get_schedule

        tokens = (latent_shape[-2] // 2) * (latent_shape[-1] // 2)
        return torch.tensor(get_schedule(steps, tokens, shift_value=self.flow_shift))

    def latent_shape(self, width: int, height: int) -> tuple[int, ...]:
        return 16, height // 8, width // 8

    def text_encoder(self, device: torch.device) -> Callable[[list[Any]], None]:
        from musubi_tuner import flux_kontext_cache_text_encoder_outputs as cache
        from musubi_tuner.flux import flux_utils

        dtype = torch.float8_e4m3fn if self.args.fp8_t5 else torch.bfloat16
        t5_tokenizer, t5 = flux_utils.load_t5xxl(self.args.text_encoder1, dtype, device, disable_mmap=True)
        clip_tokenizer, clip = flux_utils.load_clip_l(
            self.args.text_encoder2, torch.bfloat16, device, disable_mmap=True
        )
        t5.eval()  # T5 has dropout, and musubi leaves it on
        clip.eval()
        return lambda items: cache.encode_and_save_batch(t5_tokenizer, t5, clip_tokenizer, clip, items, device)


FLUX_KONTEXT = Architecture(
    model_type="flux_kontext",
    title=FAMILIES["flux_kontext"].title,
    names=names_of("flux_kontext"),
    script="musubi_tuner.flux_kontext_train_network",
    trainer="FluxKontextNetworkTrainer",
    parser="flux_kontext_setup_parser",
    network_module="networks.lora_flux",
    adapter=FluxKontextAdapter,
)

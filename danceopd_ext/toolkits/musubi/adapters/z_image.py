"""Runs the method on Z-Image in musubi-tuner.

musubi's transformer pads the captions of a batch to one length and counts the picture's positions from the end of the
caption, so pictures in batches of more than one sample differ a little from single ones. Student and teacher get the
same; only batch size 1 matches musubi's sampler exactly. (diffusers, and so the native toolkit, pads each caption and
picture to a multiple of 32 with learnt tokens; the two agree if no padding is needed.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from danceopd_ext.models.registry import FAMILIES
from danceopd_ext.toolkits.hosted.architecture import Architecture
from danceopd_ext.toolkits.musubi.adapter import MusubiAdapter


class ZImageAdapter(MusubiAdapter):
    """The transformer predicts -dz/dsigma at time 1 - sigma."""

    sign = -1
    empty_prompt = ""
    text_options = ("fp8_llm",)

    def sigmas(self, steps: int, latent_shape: tuple[int, ...]) -> torch.Tensor:
        from musubi_tuner.zimage import zimage_utils

        shift = self.trainer.default_discrete_flow_shift if self.flow_shift is None else self.flow_shift
        return zimage_utils.get_timesteps_sigmas(steps, shift)[1]

    def latent_shape(self, width: int, height: int) -> tuple[int, ...]:
        from musubi_tuner.zimage import zimage_config

        scale = zimage_config.ZIMAGE_VAE_SCALE_FACTOR
        return zimage_config.DEFAULT_TRANSFORMER_IN_CHANNELS, height // scale, width // scale

    def text_encoder(self, device: torch.device) -> Callable[[list[Any]], None]:
        from musubi_tuner import zimage_cache_text_encoder_outputs as cache
        from musubi_tuner.zimage import zimage_utils

        dtype = torch.float8_e4m3fn if self.args.fp8_llm else torch.bfloat16
        tokenizer, encoder = zimage_utils.load_qwen3(self.args.text_encoder, dtype, device, disable_mmap=True)
        encoder.eval()
        return lambda items: cache.encode_and_save_batch(tokenizer, encoder, items, device)


Z_IMAGE = Architecture(
    model_type="z_image",
    names=FAMILIES["z_image"],
    script="musubi_tuner.zimage_train_network",
    trainer="ZImageNetworkTrainer",
    parser="zimage_setup_parser",
    network_module="networks.lora_zimage",
    adapter=ZImageAdapter,
    needs_conversion=("ComfyUI", "comfyui"),
)

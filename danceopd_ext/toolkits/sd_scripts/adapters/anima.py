"""Runs the method on Anima in sd-scripts.

Shape suffixes: B samples, C latent channels, H and W latent height and width, N solver steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from danceopd_ext.toolkits.hosted.architecture import Architecture, with_files
from danceopd_ext.toolkits.hosted.argument_rules import rules, switched_on
from danceopd_ext.toolkits.hosted.conditions import Conditions
from danceopd_ext.toolkits.hosted.seams import Call
from danceopd_ext.toolkits.hosted.teacher_files import autocast_dtype
from danceopd_ext.toolkits.hosted.weights_header import Kind
from danceopd_ext.toolkits.sd_scripts.argument_rules import NO_FP8
from danceopd_ext.toolkits.sd_scripts.text_adapter import TextAdapter

#: shift of the toolkit's sampler, unless a sample prompt sets another
SHIFT = 3.0
#: functions of the toolkit that the adapter uses
CALLS = (
    Call(
        "library.strategy_anima:AnimaTextEncodingStrategy.encode_tokens",
        ("", "tokenize_strategy", "models", "tokens"),
        returns=4,
    ),
    Call("library.strategy_anima:AnimaTokenizeStrategy.tokenize", ("", "text")),
    Call(
        "library.anima_models:Anima.forward",
        ("", "x", "timesteps", "context"),
        ("padding_mask", "target_input_ids", "target_attention_mask", "source_attention_mask"),
    ),
)


@dataclass(frozen=True)
class AnimaAdapter(TextAdapter):
    """The transformer takes sigma as its time and returns dz/dsigma directly, on latents of one video frame.

    dtype: the toolkit's compute dtype. Latents, texts and sigma are converted to it, as in its trainer and sampler:
    newer versions turn off autocast inside.
    """

    dtype: torch.dtype = torch.float32

    texts = ("embeds", "mask", "t5_ids", "t5_mask")
    more = ("caption_dropout_rate",)  # with cached texts, since v0.11

    def velocity(
        self, transformer: torch.nn.Module, z_B: torch.Tensor, sigma_B: torch.Tensor, condition: Conditions
    ) -> torch.Tensor:
        """Return dz/dsigma with the shape of `z_B`: [B, C, H, W], or [B, C, 1, H, W] from old caches."""
        frame = (z_B.unsqueeze(2) if z_B.ndim == 4 else z_B).to(self.dtype)
        out = transformer(
            frame,
            sigma_B.to(self.dtype),
            condition["embeds"].to(self.dtype),
            padding_mask=torch.zeros_like(frame[:, :1, 0]),  # [B, 1, H, W]: no part of the picture is padding
            target_input_ids=condition["t5_ids"].long(),  # cached tokens and masks arrive as floats
            target_attention_mask=condition["t5_mask"],
            source_attention_mask=condition["mask"],
        )
        return out.reshape(z_B.shape)

    def sigmas(self, steps: int, latent_shape: tuple[int, ...]) -> torch.Tensor:
        plain = torch.linspace(1.0, 0.0, steps + 1)
        return plain * SHIFT / (1 + (SHIFT - 1) * plain)


ANIMA = Architecture(
    model_type="anima",
    title="Anima",
    script="anima_train_network",
    trainer="AnimaNetworkTrainer",
    network_module="networks.lora_anima",
    adapter=lambda trainer, args: AnimaAdapter(autocast_dtype(args.mixed_precision)),
    **with_files("qwen3", "vae"),
    folders=("qwen3", "vae"),
    refused=rules("fp8_base fp8_base_unet", switched_on, NO_FP8, "Remove it; blocks_to_swap also saves memory."),
    drops_cached=True,
    kinds=(Kind("Anima", ("blocks.0.adaln_modulation_self_attn.", "llm_adapter.")),),
    blocks=("blocks",),
    calls=CALLS,
)

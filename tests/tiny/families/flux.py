"""Tiny random FLUX.1, and Kontext, which edits."""

from __future__ import annotations

import diffusers
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from tests.tiny.families.parts import HEADS, SCHEDULER, made, tokenizer, vae


def flux_transformer(seed: int = 0) -> torch.nn.Module:
    return made(
        diffusers.FluxTransformer2DModel, seed, in_channels=16, num_single_layers=2, joint_attention_dim=32,
        pooled_projection_dim=16, guidance_embeds=True, axes_dims_rope=(4, 6, 6), **HEADS,
    )  # fmt: skip


def flux_pipeline(seed: int = 0, cls: type = diffusers.FluxPipeline) -> diffusers.DiffusionPipeline:
    torch.manual_seed(seed)
    clip = CLIPTextConfig(
        vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2,
        projection_dim=16, bos_token_id=2, eos_token_id=3, pad_token_id=0,
    )  # fmt: skip
    return cls(
        scheduler=FlowMatchEulerDiscreteScheduler(**SCHEDULER),
        vae=vae(4, seed),
        text_encoder=CLIPTextModel(clip).eval(),
        tokenizer=tokenizer(),
        text_encoder_2=T5EncoderModel(
            T5Config(vocab_size=64, d_model=32, d_ff=32, d_kv=8, num_layers=1, num_heads=2)
        ).eval(),
        tokenizer_2=tokenizer(512),
        transformer=flux_transformer(seed),
    )


def kontext_pipeline(seed: int = 0) -> diffusers.DiffusionPipeline:
    return flux_pipeline(seed, diffusers.FluxKontextPipeline)

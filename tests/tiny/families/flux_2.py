"""Tiny random FLUX.2 dev and klein."""

from __future__ import annotations

import diffusers
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from transformers import Mistral3Config, Mistral3ForConditionalGeneration, Qwen3Config, Qwen3ForCausalLM

from tests.tiny.families.parts import HEADS, SCHEDULER, TEXT, VISION, made, tokenizer


def flux_2_vae(seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    made_vae = diffusers.AutoencoderKLFlux2(
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, latent_channels=4, sample_size=32,
    ).eval()  # fmt: skip
    made_vae.bn.running_mean.uniform_(-0.5, 0.5)
    made_vae.bn.running_var.uniform_(0.5, 2.0)
    return made_vae


def flux_2_transformer(seed: int, text: int, guidance: bool) -> torch.nn.Module:
    return made(
        diffusers.Flux2Transformer2DModel, seed, in_channels=16, num_single_layers=2, joint_attention_dim=text,
        timestep_guidance_channels=32, axes_dims_rope=(4, 4, 4, 4), guidance_embeds=guidance, **HEADS,
    )  # fmt: skip


def flux_2_pipeline(seed: int = 0) -> diffusers.DiffusionPipeline:
    torch.manual_seed(seed)
    text = {"model_type": "mistral", "vocab_size": 64, "num_hidden_layers": 31, **TEXT}
    vision = {"model_type": "pixtral", "head_dim": 8, "image_size": 32, "patch_size": 8, **VISION}
    words = tokenizer(512)
    words.chat_template = (
        "{% for m in messages %}{{ m['role'] }} "
        "{% for part in m['content'] %}{{ part['text'] }} {% endfor %}{% endfor %}"
    )
    return diffusers.Flux2Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(**SCHEDULER),
        vae=flux_2_vae(seed),
        text_encoder=Mistral3ForConditionalGeneration(Mistral3Config(text_config=text, vision_config=vision)).eval(),
        tokenizer=words,
        transformer=flux_2_transformer(seed, 48, guidance=True),
    )


def klein_pipeline(seed: int = 0) -> diffusers.DiffusionPipeline:
    torch.manual_seed(seed)
    return diffusers.Flux2KleinPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(**SCHEDULER),
        vae=flux_2_vae(seed),
        text_encoder=Qwen3ForCausalLM(Qwen3Config(vocab_size=64, num_hidden_layers=28, **TEXT)).eval(),
        tokenizer=tokenizer(512),
        transformer=flux_2_transformer(seed, 48, guidance=False),
    )

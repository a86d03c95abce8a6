"""Tiny random Z-Image, and Z-Image-Omni, which edits."""

from __future__ import annotations

import diffusers
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, ZImagePipeline, ZImageTransformer2DModel
from transformers import Qwen3Config, Qwen3Model, Siglip2VisionConfig, Siglip2VisionModel
from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil

from tests.tiny.families.parts import TEXT, VISION, made, randomise, tokenizer, vae


def z_image_transformer(seed: int = 0, layers: int = 2, dim: int = 64) -> ZImageTransformer2DModel:
    torch.manual_seed(seed)
    model = ZImageTransformer2DModel(
        in_channels=4, dim=dim, n_layers=layers, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=16,
        axes_dims=[dim // 2 - 8, 4, 4], axes_lens=[128, 32, 32],
    )  # fmt: skip
    randomise(model, seed)
    return model.eval()


def z_image_pipeline(seed: int = 0) -> ZImagePipeline:
    torch.manual_seed(seed)
    text = Qwen3Config(
        vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, head_dim=8,
    )  # fmt: skip
    return ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=False),
        vae=vae(4, seed),
        text_encoder=Qwen3Model(text).eval(),
        tokenizer=tokenizer(512),
        transformer=z_image_transformer(seed),
    )


def omni_pipeline(seed: int = 0) -> diffusers.DiffusionPipeline:
    torch.manual_seed(seed)
    text = Qwen3Config(vocab_size=64, num_hidden_layers=2, **TEXT)
    vision = Siglip2VisionConfig(num_patches=16, patch_size=8, **VISION)
    return diffusers.ZImageOmniPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=False),
        vae=vae(4, seed),
        text_encoder=Qwen3Model(text).eval(),
        tokenizer=tokenizer(512),
        transformer=made(
            diffusers.ZImageTransformer2DModel, seed, in_channels=4, dim=32, n_layers=2, n_refiner_layers=1, n_heads=2,
            n_kv_heads=2, cap_feat_dim=16, siglip_feat_dim=16, axes_dims=[8, 4, 4], axes_lens=[512, 64, 64],
        ),
        siglip=Siglip2VisionModel(vision).eval(),
        siglip_processor=Siglip2ImageProcessorPil(patch_size=8, max_num_patches=16),
    )  # fmt: skip

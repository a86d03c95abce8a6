"""Makes a random pipeline with a real model's shape, and two random LoRA teachers for it.

Memory and speed do not depend on the values of weights. The text encoders have only a few layers, with the widths that
the transformer expects.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

from danceopd_ext.demo import LORAS
from danceopd_ext.demo.pretrain.pipeline import build_tokenizer
from danceopd_ext.engine.precision import torch_dtype
from danceopd_ext.lora.weights import Lora, LowRank
from danceopd_ext.lora.write import write_lora
from danceopd_ext.models.registry import FAMILIES

TEACHERS = ("hollow", "checkered")
#: (family, size) -> the arguments of its transformer
TRANSFORMERS: dict[tuple[str, str], dict[str, Any]] = {
    ("sd3", "small"): {
        "num_layers": 4, "num_attention_heads": 3, "caption_projection_dim": 192, "pos_embed_max_size": 32,
        "joint_attention_dim": 64, "pooled_projection_dim": 64, "dual_attention_layers": (0, 1), "qk_norm": "rms_norm",
    },
    ("sd3", "real"): {
        "num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 1536, "pos_embed_max_size": 384,
        "dual_attention_layers": tuple(range(13)), "qk_norm": "rms_norm",
    },
    ("z_image", "small"): {
        "dim": 192, "n_layers": 4, "n_heads": 3, "n_kv_heads": 3, "cap_feat_dim": 64, "axes_dims": [16, 24, 24],
    },
}  # fmt: skip


def text_encoders(family: str, real: bool) -> dict[str, Any]:
    """Return the text part of a pipeline: few layers, with the widths that the transformer expects."""
    if family == "z_image":
        shape = dict.fromkeys(("hidden_size", "intermediate_size"), 2560 if real else 64) | {"num_hidden_layers": 3}
        config = transformers.Qwen3Config(vocab_size=64, num_attention_heads=2, num_key_value_heads=2, **shape)
        return {"text_encoder": transformers.Qwen3Model(config), "tokenizer": build_tokenizer()}
    parts: dict[str, Any] = {name: build_tokenizer() for name in ("tokenizer", "tokenizer_2", "tokenizer_3")}
    parts["tokenizer"].model_max_length = parts["tokenizer_2"].model_max_length = 77
    for name, width in {"text_encoder": 768 if real else 32, "text_encoder_2": 1280 if real else 32}.items():
        shape = dict.fromkeys(("hidden_size", "intermediate_size", "projection_dim"), width)
        config = transformers.CLIPTextConfig(vocab_size=64, num_hidden_layers=3, num_attention_heads=2, **shape)
        parts[name] = transformers.CLIPTextModelWithProjection(config)
    t5 = transformers.T5Config(vocab_size=64, d_model=4096 if real else 64, d_ff=64, num_layers=2, num_heads=2)
    return {**parts, "text_encoder_3": transformers.T5EncoderModel(t5)}


def make_random(args: argparse.Namespace) -> Path:
    """Write a random pipeline and its two teachers to the folder, and return it."""
    torch.manual_seed(0)
    family = FAMILIES[args.family]
    with torch.device(args.device):
        transformer = getattr(diffusers, family.transformer_class)(**TRANSFORMERS.get((family.name, args.size), {}))
    for parameter in transformer.parameters():
        if parameter.ndim > 1:  # fresh transformers end in zeros
            torch.nn.init.normal_(parameter, std=0.7 * parameter[0].numel() ** -0.5)
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    vae = diffusers.AutoencoderKL(latent_channels=16, block_out_channels=(4,) * 4, norm_num_groups=2, **blocks)
    parts = text_encoders(family.name, args.size == "real") | {"transformer": transformer, "vae": vae}
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    pipeline = getattr(diffusers, family.pipeline_class)(scheduler=scheduler, **parts)
    pipeline.to(torch_dtype(args.precision)).save_pretrained(args.folder / "pipeline")
    layout = family.layout(transformer)
    for name in TEACHERS:
        modules = {}
        for layer, (outputs, inputs) in layout.shapes.items():
            if layer.endswith(family.lora_targets):
                down, up = torch.randn(args.rank, inputs), torch.randn(outputs, args.rank)
                modules[layer] = LowRank(down / inputs**0.5, up * 0.1 / args.rank**0.5)
        write_lora(args.folder / LORAS[name].name, Lora(modules), layout, "diffusers", dtype=torch.float32)
    return args.folder

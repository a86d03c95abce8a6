"""Tiny random SD3 and Z-Image pipelines: every part has its real architecture, at a few thousand parameters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3Model,
    T5Config,
    T5EncoderModel,
)

WORDS = ["a", "the", "red", "blue", "green", "cat", "dog", "house", "tree", "river", "photo", "of", "on", "big", "old"]
CHAT = "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} {% endfor %}assistant"


def tokenizer(max_length: int = 77) -> PreTrainedTokenizerFast:
    vocabulary = {w: i for i, w in enumerate(["<pad>", "<unk>", "<s>", "</s>", "user", "assistant", *WORDS])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>",
        model_max_length=max_length,
    )  # fmt: skip
    made.chat_template = CHAT
    return made


def randomise(module: torch.nn.Module, seed: int, scale: float = 0.05) -> None:
    """Make every parameter non-zero: fresh transformers end in zeros, and a zero velocity tests nothing."""
    rng = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        noise = torch.randn(parameter.shape, generator=rng) * scale
        parameter.data = (parameter.data + noise if parameter.ndim > 1 else parameter.data + noise / 2).contiguous()


def vae(channels: int, seed: int) -> AutoencoderKL:
    torch.manual_seed(seed)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, latent_channels=channels,
        sample_size=32, scaling_factor=1.5, shift_factor=0.1, use_quant_conv=False, use_post_quant_conv=False,
    ).eval()  # fmt: skip


def z_image_transformer(seed: int = 0, layers: int = 2, dim: int = 64) -> ZImageTransformer2DModel:
    torch.manual_seed(seed)
    model = ZImageTransformer2DModel(
        in_channels=4, dim=dim, n_layers=layers, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=16,
        axes_dims=[dim // 2 - 8, 4, 4], axes_lens=[128, 32, 32],
    )  # fmt: skip
    randomise(model, seed)
    return model.eval()


def sd3_transformer(seed: int = 0, layers: int = 3, dual: tuple[int, ...] = (0,)) -> SD3Transformer2DModel:
    torch.manual_seed(seed)
    model = SD3Transformer2DModel(
        sample_size=16, patch_size=2, in_channels=4, num_layers=layers, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, caption_projection_dim=32, pooled_projection_dim=32, out_channels=4,
        pos_embed_max_size=16, dual_attention_layers=dual, qk_norm="rms_norm",
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


def sd3_pipeline(seed: int = 0) -> StableDiffusion3Pipeline:
    torch.manual_seed(seed)
    clip = CLIPTextConfig(
        vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2,
        projection_dim=16, bos_token_id=2, eos_token_id=3, pad_token_id=0,
    )  # fmt: skip
    t5 = T5Config(vocab_size=64, d_model=32, d_ff=32, d_kv=8, num_layers=1, num_heads=2)
    return StableDiffusion3Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae(4, seed),
        text_encoder=CLIPTextModelWithProjection(clip).eval(),
        text_encoder_2=CLIPTextModelWithProjection(clip).eval(),
        text_encoder_3=T5EncoderModel(t5).eval(),
        tokenizer=tokenizer(),
        tokenizer_2=tokenizer(),
        tokenizer_3=tokenizer(256),
        transformer=sd3_transformer(seed),
    )


def listening(make: Callable[[int], DiffusionPipeline]) -> Callable[[int], DiffusionPipeline]:
    """The pipeline with text encoders so random that its velocity clearly depends on the prompt."""

    def made(seed: int = 0) -> DiffusionPipeline:
        pipeline = make(seed)
        for name, part in pipeline.components.items():
            if name.startswith("text_encoder"):
                randomise(part, seed, scale=0.5)
        return pipeline

    return made


PIPELINES = {"sd3": listening(sd3_pipeline), "z_image": listening(z_image_pipeline)}


def save_pipeline(family: str, folder: Path, seed: int = 0) -> Path:
    """A hub-layout folder of a tiny random pipeline."""
    PIPELINES[family](seed).save_pretrained(folder)
    return folder

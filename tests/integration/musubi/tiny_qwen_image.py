"""Qwen-Image and Qwen-Image-Edit at two blocks of 32 channels."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import torch

from danceopd_ext.toolkits.musubi.adapters.qwen_image import QwenImageAdapter
from tests.integration.musubi.edit_data import latent_size, marked
from tests.integration.musubi.tiny_case import ACCELERATOR, StandInVae, TinyCase, random, without_rounding

H, W = 8, 12
TEXT = 16
CONTROLS = [(6, 10), (4, 8)]


def shrink() -> None:
    """Let musubi make and load tiny models from here on."""
    from accelerate import init_empty_weights
    from musubi_tuner.qwen_image import qwen_image_model as models

    def create(attn_mode, split_attn, zero_cond_t, additional, layer3d, dtype, num_layers=None):
        with init_empty_weights():
            model = _model(attn_mode, split_attn, zero_cond_t)
            return model.to(dtype) if dtype is not None else model

    models.create_model = create


def _model(attn_mode: str, split_attn: bool, zero_cond_t: bool) -> torch.nn.Module:
    from musubi_tuner.qwen_image import qwen_image_model as models

    return models.QwenImageTransformer2DModel(
        num_layers=2, attention_head_dim=16, num_attention_heads=2, joint_attention_dim=TEXT, axes_dims_rope=(4, 6, 6),
        attn_mode=attn_mode, split_attn=split_attn, zero_cond_t=zero_cond_t,
    )  # fmt: skip


def transformer(seed: int = 0, version: str = "original", split_attn: bool = False) -> torch.nn.Module:
    torch.manual_seed(seed)
    return _model("torch", split_attn, version == "edit-2511").requires_grad_(False)


def texts(seed: int) -> dict[str, torch.Tensor]:
    """One sample's: longer or shorter with the seed."""
    return {"vl_embed": random(4 + seed % 3, TEXT, seed=seed)}


def arguments(version: str, **more: Any) -> Namespace:
    from musubi_tuner.qwen_image.qwen_image_utils import resolve_model_version_args

    args = Namespace(model_version=version, metadata_arch=None, remove_first_image_from_target=False, split_attn=False)
    args.__dict__ |= {"mixed_precision": "no", "gradient_checkpointing": False, **more}
    resolve_model_version_args(args)
    return args


def case(folder: Path, version: str, edit: bool, gradient_checkpointing: bool = False) -> TinyCase:
    """`edit` False with an edit model: a picture from text alone."""
    from musubi_tuner import qwen_image_train_network as stock
    from musubi_tuner.networks import lora_qwen_image
    from musubi_tuner.qwen_image import qwen_image_utils

    model, args = transformer(version=version), arguments(version, gradient_checkpointing=gradient_checkpointing)
    adapter = QwenImageAdapter(stock.QwenImageNetworkTrainer(), args)
    adapter.accelerator = ACCELERATOR
    adapter.trainer.handle_model_specific_args(args)
    batch = {"vl_embed": [texts(10)["vl_embed"], texts(20)["vl_embed"]], "latents": random(2, 16, 1, H, W, seed=3)}
    controls = [f"latents_control_{i}" for i in range(len(CONTROLS) if edit else 0)]
    batch |= {name: random(2, 16, 1, *size, seed=4 + size[0]) for name, size in zip(controls, CONTROLS, strict=False)}

    def sample(noise_seed: int, steps: int, flow_shift: float | None):
        embed = batch["vl_embed"][0][None]
        parameter = {"vl_embed": embed, "negative_vl_embed": embed}
        if edit:
            parameter |= {"control_image_path": controls, "control_image_tensors": [torch.zeros(1)] * len(controls)}
        vae = StandInVae([batch[name][:1] for name in controls])
        with without_rounding(stock, qwen_image_utils):
            adapter.trainer.do_inference(
                ACCELERATOR, args, parameter, vae, None, model, flow_shift, steps, 8 * W, 8 * H, 1,
                torch.Generator().manual_seed(noise_seed), False, guidance_scale=1.0, cfg_scale=1.0,
            )  # fmt: skip
        noise = torch.randn(1, 1, 16, H, W, generator=torch.Generator().manual_seed(noise_seed))
        return vae.latents, noise.transpose(1, 2).contiguous()

    return TinyCase(adapter, model, lora_qwen_image, batch, (16, 1, H, W), sample, controls)


def save_latents(item: Any, number: int, seed: int) -> None:
    from musubi_tuner.dataset.cache_io import save_latent_cache_qwen_image

    controls = [random(16, 1, *latent_size(c, 8), seed=seed + 1 + i) for i, c in enumerate(item.control_content or [])]
    save_latent_cache_qwen_image(item, random(16, 1, *latent_size(item.content, 8), seed=seed), controls or None)


def save_texts(item: Any, number: int, seed: int) -> None:
    from musubi_tuner.dataset.cache_io import save_text_encoder_output_cache_qwen_image

    save_text_encoder_output_cache_qwen_image(item, marked(texts(seed)["vl_embed"], number))


def stand_in_text_encoders() -> None:
    """A text encoder that needs no files: what a prompt gives depends on the prompt."""
    from musubi_tuner.qwen_image import qwen_image_utils

    def encode(_tokenizer, _encoder, prompts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        embeds = torch.stack([random(5, TEXT, seed=sum(p.encode())) for p in prompts]).to(torch.bfloat16)
        return embeds, torch.ones(embeds.shape[:2])

    qwen_image_utils.load_qwen2_5_vl = lambda *_args, **_kwargs: (None, torch.nn.Identity())
    qwen_image_utils.get_qwen_prompt_embeds = encode

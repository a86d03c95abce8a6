"""FLUX.1 Kontext at two blocks of 32 channels."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from PIL import Image

from danceopd_ext.toolkits.musubi.adapters.flux_kontext import FluxKontextAdapter
from tests.integration.musubi.edit_data import latent_size, marked
from tests.integration.musubi.tiny_case import ACCELERATOR, StandInVae, TinyCase, random, without_rounding

H, W = 8, 12
TEXT, POOLED, TOKENS = 16, 12, 6


def shrink() -> None:
    """Let musubi make and load tiny models from here on."""
    from musubi_tuner.flux import flux_models

    flux_models.configs_flux_dev_context.params = flux_models.FluxParams(
        in_channels=64, vec_in_dim=POOLED, context_in_dim=TEXT, hidden_size=32, mlp_ratio=4.0, num_heads=2, depth=2,
        depth_single_blocks=2, axes_dim=[4, 6, 6], theta=10_000, qkv_bias=True, guidance_embed=True,
    )  # fmt: skip


def transformer(seed: int = 0) -> torch.nn.Module:
    from musubi_tuner.flux import flux_models

    shrink()
    torch.manual_seed(seed)
    return flux_models.Flux(flux_models.configs_flux_dev_context.params, attn_mode="torch").requires_grad_(False)


def texts(seed: int) -> dict[str, torch.Tensor]:
    """One sample's."""
    return {"t5_vec": random(TOKENS, TEXT, seed=seed), "clip_l_pooler": random(POOLED, seed=seed + 1)}


def case(folder: Path, edit: bool, gradient_checkpointing: bool = False) -> TinyCase:
    from musubi_tuner import flux_kontext_train_network as stock
    from musubi_tuner.networks import lora_flux

    model = transformer()
    args = Namespace(gradient_checkpointing=gradient_checkpointing, mixed_precision="no", split_attn=False)
    args.guidance_scale = FluxKontextAdapter.embedded_guidance
    adapter = FluxKontextAdapter(stock.FluxKontextNetworkTrainer(), args)
    adapter.accelerator = ACCELERATOR
    adapter.trainer.handle_model_specific_args(args)
    batch = {name: torch.stack([texts(10)[name], texts(20)[name]]) for name in texts(0)}
    batch["latents"] = random(2, 16, H, W, seed=3)
    if edit:
        batch["latents_control"] = random(2, 16, 6, 10, seed=4)

    def sample(noise_seed: int, steps: int, flow_shift: float | None):
        parameter = {name: batch[name][:1] for name in ("t5_vec", "clip_l_pooler")}
        if edit:
            Image.new("RGB", (80, 48)).save(folder / "control.png")
            parameter["control_image_path"] = [str(folder / "control.png")]
        vae = StandInVae([batch["latents_control"][:1]] if edit else [])
        generator = torch.Generator().manual_seed(noise_seed)
        with without_rounding(stock):
            adapter.trainer.do_inference(
                ACCELERATOR, args, parameter, vae, None, model, flow_shift, steps, 8 * W, 8 * H, 1, generator,
                False, guidance_scale=adapter.trainer.default_guidance_scale, cfg_scale=None,
            )  # fmt: skip
        packed = torch.randn(1, H * W // 4, 64, generator=torch.Generator().manual_seed(noise_seed))
        noise = rearrange(packed, "b (h w) (c ph pw) -> b c (h ph) (w pw)", h=H // 2, w=W // 2, ph=2, pw=2)
        return vae.latents, noise

    return TinyCase(adapter, model, lora_flux, batch, (16, H, W), sample, ["latents_control"] if edit else [])


def save_latents(item: Any, number: int, seed: int) -> None:
    from musubi_tuner.dataset.cache_io import save_latent_cache_flux_kontext

    (control,) = item.control_content
    sizes = latent_size(item.content, 8), latent_size(control, 8)
    save_latent_cache_flux_kontext(item, *(random(16, *size, seed=seed + i) for i, size in enumerate(sizes)))


def save_texts(item: Any, number: int, seed: int) -> None:
    from musubi_tuner.dataset.cache_io import save_text_encoder_output_cache_flux_kontext

    text = texts(seed)
    save_text_encoder_output_cache_flux_kontext(item, marked(text["t5_vec"], number), text["clip_l_pooler"])


def stand_in_text_encoders() -> None:
    """A text encoder that needs no files: what a prompt gives depends on the prompt."""
    from musubi_tuner.flux import flux_utils

    flux_utils.load_t5xxl = lambda *_args, **_kwargs: (count_bytes, Encoder(TOKENS, TEXT, "last_hidden_state"))
    flux_utils.load_clip_l = lambda *_args, **_kwargs: (count_bytes, Encoder(1, POOLED, "pooler_output"))


def count_bytes(prompts: list[str], **_kwargs: Any) -> dict[str, torch.Tensor]:
    """As many ids as bytes are counted: a token is how often it occurs."""
    return {"input_ids": torch.stack([torch.bincount(torch.tensor([*p.encode(), 0]), minlength=256) for p in prompts])}


class Encoder(torch.nn.Module):
    dtype, device = torch.bfloat16, torch.device("cpu")

    def __init__(self, tokens: int, width: int, output: str):
        super().__init__()
        self.tokens, self.width, self.output = tokens, width, output
        self.table = random(256, tokens * width, seed=width)

    def forward(self, input_ids: torch.Tensor, **_kwargs: Any) -> dict[str, torch.Tensor]:
        values = (input_ids.float() @ self.table / 5).unflatten(1, (self.tokens, self.width))
        return {self.output: (values[:, 0] if self.tokens == 1 else values).to(self.dtype)}

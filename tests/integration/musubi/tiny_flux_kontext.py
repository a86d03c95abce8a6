"""FLUX.1 Kontext at two blocks of 32 channels."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import torch
from einops import rearrange
from PIL import Image

from danceopd_ext.toolkits.musubi.flux_kontext import FluxKontextAdapter
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
    adapter = FluxKontextAdapter(stock.FluxKontextNetworkTrainer(), args)
    adapter.accelerator = ACCELERATOR
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
                False, guidance_scale=1.0, cfg_scale=None,
            )  # fmt: skip
        packed = torch.randn(1, H * W // 4, 64, generator=torch.Generator().manual_seed(noise_seed))
        noise = rearrange(packed, "b (h w) (c ph pw) -> b c (h ph) (w pw)", h=H // 2, w=W // 2, ph=2, pw=2)
        return vae.latents, noise

    return TinyCase(adapter, model, lora_flux, batch, (16, H, W), sample, ["latents_control"] if edit else [])

"""FLUX.2-dev at two blocks of 32 channels."""

from __future__ import annotations

import dataclasses
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from danceopd_ext.toolkits.musubi.adapters.flux_2 import Flux2Adapter
from tests.integration.musubi.edit_data import latent_size, marked
from tests.integration.musubi.tiny_case import ACCELERATOR, StandInVae, TinyCase, random, without_rounding

H, W = 4, 6
TEXT, TOKENS = 16, 6
CONTROLS = [(3, 5), (4, 2)]


def shrink(version: str = "dev") -> None:
    """Let musubi make and load tiny models from here on."""
    from musubi_tuner.flux_2 import flux2_models, flux2_utils

    info = flux2_utils.FLUX2_MODEL_INFO[version]
    params = flux2_models.Flux2Params(
        in_channels=128, context_in_dim=TEXT, hidden_size=32, num_heads=2, depth=2, depth_single_blocks=2,
        axes_dim=[4, 4, 4, 4], theta=2000, mlp_ratio=3.0, use_guidance_embed=info.params.use_guidance_embed,
    )  # fmt: skip
    flux2_utils.FLUX2_MODEL_INFO[version] = dataclasses.replace(info, params=params)


def transformer(seed: int = 0, version: str = "dev") -> torch.nn.Module:
    from musubi_tuner.flux_2 import flux2_models, flux2_utils

    shrink(version)
    torch.manual_seed(seed)
    return flux2_models.Flux2(flux2_utils.FLUX2_MODEL_INFO[version].params, attn_mode="torch").requires_grad_(False)


def texts(seed: int) -> dict[str, torch.Tensor]:
    """One sample's."""
    return {"ctx_vec": random(TOKENS, TEXT, seed=seed)}


def case(folder: Path, edit: bool, gradient_checkpointing: bool = False, version: str = "dev") -> TinyCase:
    from musubi_tuner import flux_2_train_network as stock
    from musubi_tuner.flux_2 import flux2_utils
    from musubi_tuner.networks import lora_flux_2

    model = transformer(version=version)
    args = Namespace(gradient_checkpointing=gradient_checkpointing, mixed_precision="no", model_version=version)
    args.guidance_scale = Flux2Adapter.usual_guidance(args) or 1.0
    adapter = Flux2Adapter(stock.Flux2NetworkTrainer(), args)
    adapter.accelerator = ACCELERATOR
    adapter.trainer.handle_model_specific_args(args)
    batch = {"ctx_vec": torch.stack([texts(10)["ctx_vec"], texts(20)["ctx_vec"]])}
    batch["latents"] = random(2, 128, H, W, seed=3)
    controls = [f"latents_control_{i}" for i in range(len(CONTROLS) if edit else 0)]
    batch |= {name: random(2, 128, *size, seed=4 + size[0]) for name, size in zip(controls, CONTROLS, strict=False)}

    def sample(noise_seed: int, steps: int, flow_shift: float | None):
        parameter = {"ctx_vec": batch["ctx_vec"][:1], "negative_ctx_vec": batch["ctx_vec"][1:]}
        if edit:
            Image.new("RGB", (80, 48)).save(folder / "control.png")
            parameter["control_image_path"] = [str(folder / "control.png")] * len(controls)
        vae = StandInVae([batch[name][:1] for name in controls])
        told = Flux2Adapter.usual_guidance(args) is not None
        guidance = adapter.trainer.default_guidance_scale if told else 1.0
        with without_rounding(stock, flux2_utils):
            adapter.trainer.do_inference(
                ACCELERATOR, args, parameter, vae, None, model, flow_shift, steps, 16 * W, 16 * H, 1,
                torch.Generator().manual_seed(noise_seed), False, guidance_scale=guidance, cfg_scale=None,
            )  # fmt: skip
        return vae.latents, torch.randn(1, 128, H, W, generator=torch.Generator().manual_seed(noise_seed))

    return TinyCase(adapter, model, lora_flux_2, batch, (128, H, W), sample, controls)


def save_latents(item: Any, number: int, seed: int) -> None:
    from musubi_tuner.dataset.cache_io import save_latent_cache_flux_2

    controls = [random(128, *latent_size(c, 16), seed=seed + 1 + i) for i, c in enumerate(item.control_content or [])]
    latents = random(128, *latent_size(item.content, 16), seed=seed)
    save_latent_cache_flux_2(item, latents, controls or None, "flux_2_dev")


def save_texts(item: Any, number: int, seed: int) -> None:
    from musubi_tuner.dataset.cache_io import save_text_encoder_output_cache_flux_2

    save_text_encoder_output_cache_flux_2(item, marked(texts(seed)["ctx_vec"], number), "flux_2_dev")


def stand_in_text_encoders() -> None:
    """A text encoder that needs no files: what a prompt gives depends on the prompt."""
    from musubi_tuner.flux_2 import flux2_utils

    flux2_utils.load_text_embedder = lambda *_args, **_kwargs: Encoder()


class Encoder(torch.nn.Module):
    dtype = torch.bfloat16

    def forward(self, prompts: list[str]) -> torch.Tensor:
        return torch.stack([random(TOKENS, TEXT, seed=sum(p.encode())) for p in prompts]).to(self.dtype)

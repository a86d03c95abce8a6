"""FLUX.1 and Chroma of the checkout, small: 2 + 2 blocks of 32 channels."""

from __future__ import annotations

import torch

from danceopd_ext.toolkits.sd_scripts.adapters.flux import FluxAdapter
from tests.integration.sd_scripts.tiny_models import (
    ACCELERATOR,
    Architecture,
    Texts,
    noisy_input,
    randomise,
    trainer_arguments,
)

SHAPE = (16, 8, 12)
TOKENS = 6
SIZES = {
    "in_channels": 64, "context_in_dim": 24, "hidden_size": 32, "mlp_ratio": 4.0, "num_heads": 2, "depth": 2,
    "depth_single_blocks": 2, "axes_dim": [4, 6, 6], "theta": 10_000, "qkv_bias": True,
}  # fmt: skip


def flux_params(guidance_embed: bool = True):
    from library.flux_models import FluxParams

    return FluxParams(vec_in_dim=16, guidance_embed=guidance_embed, **SIZES)


def chroma_params():
    from library.chroma_models import ChromaParams

    return ChromaParams(
        guidance_embed=True, approximator_in_dim=64, approximator_depth=2, approximator_hidden_size=32,
        _use_compiled=False, **SIZES,
    )  # fmt: skip


def make_model(kind: str) -> torch.nn.Module:
    """`kind`: dev, schnell or chroma."""
    from library import chroma_models, flux_models

    if kind == "chroma":
        return randomise(chroma_models.Chroma(chroma_params()))
    return randomise(flux_models.Flux(flux_params(kind == "dev")))


def make_texts(lengths: list[int], seed: int, pooled_width: int = 16) -> Texts:
    """As the toolkit caches them: pooled, embeddings, ids and a mask that comes back as floats."""
    rng = torch.Generator().manual_seed(seed)
    count = len(lengths)
    mask = (torch.arange(TOKENS)[None] < torch.tensor(lengths)[:, None]).float()
    pooled = torch.randn(count, pooled_width, generator=rng)
    return [pooled, torch.randn(count, TOKENS, 24, generator=rng), torch.zeros(count, TOKENS, 3), mask]


def make(kind: str, guidance_scale: float = 3.5, masked: bool = False) -> Architecture:
    import flux_train_network
    from library import flux_train_utils, flux_utils

    model = make_model(kind)
    adapter = FluxAdapter(guidance_scale, masked, shifted=kind != "schnell")
    args = trainer_arguments(guidance_scale=guidance_scale, apply_t5_attn_mask=masked)

    def predict(z: torch.Tensor, sigma: torch.Tensor, texts: Texts) -> torch.Tensor:
        with noisy_input(flux_train_utils, z, sigma):
            return flux_train_network.FluxNetworkTrainer().get_noise_pred_and_target(
                args, ACCELERATOR, None, z, {}, texts, model, None, torch.float32, True, is_train=False
            )[0]

    def sample(noise: torch.Tensor, steps: int, texts: Texts, empty: Texts, scale: float) -> torch.Tensor:
        pooled, embeds, ids, mask = texts
        rows, columns = noise.shape[2] // 2, noise.shape[3] // 2
        grid = flux_train_utils.get_schedule(steps, rows * columns, shift=kind != "schnell")
        negative = (scale, empty[0], empty[1], empty[3] if masked else None) if scale != 1 else None
        packed = flux_train_utils.denoise(
            model, flux_utils.pack_latents(noise), flux_utils.prepare_img_ids(1, rows, columns), embeds, ids, pooled,
            timesteps=grid, guidance=guidance_scale, t5_attn_mask=mask if masked else None, neg_cond=negative,
        )  # fmt: skip
        return flux_utils.unpack_latents(packed, rows, columns)

    return Architecture(adapter, model, SHAPE, make_texts([5, 3], 1), make_texts([1], 2), predict, sample)

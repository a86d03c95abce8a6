"""Lumina Image 2.0 of the checkout, small: 2 layers and 1 refiner of each kind, 48 channels."""

from __future__ import annotations

import inspect

import torch

from danceopd_ext.toolkits.sd_scripts.adapters.lumina import LuminaAdapter
from tests.integration.sd_scripts.tiny_models import (
    ACCELERATOR,
    Architecture,
    Texts,
    noisy_input,
    randomise,
    trainer_arguments,
)

SHAPE = (16, 8, 12)
TOKENS = 8


def make_model(**_) -> torch.nn.Module:
    from library import lumina_models

    return lumina_models.NextDiT(
        patch_size=2, in_channels=16, dim=48, n_layers=2, n_refiner_layers=1, n_heads=2, n_kv_heads=1, multiple_of=16,
        qk_norm=True, cap_feat_dim=24, axes_dims=[8, 8, 8], axes_lens=[300, 64, 64],
    )  # fmt: skip


def make_texts(lengths: list[int], seed: int) -> Texts:
    """As the toolkit caches them: embeddings, tokens and a mask that come back as floats."""
    mask = (torch.arange(TOKENS)[None] < torch.tensor(lengths)[:, None]).float()
    embeds = torch.randn(len(lengths), TOKENS, 24, generator=torch.Generator().manual_seed(seed))
    return [embeds, mask.clone(), mask]


def make() -> Architecture:
    import lumina_train_network
    from library import lumina_train_util, sd3_train_utils

    model = randomise(make_model())

    def predict(z: torch.Tensor, sigma: torch.Tensor, texts: Texts) -> torch.Tensor:
        scheduler = sd3_train_utils.FlowMatchEulerDiscreteScheduler()
        turned = "t=1 - timesteps" in inspect.getsource(lumina_train_network)
        asked = sigma if turned else 1 - sigma  # the trainer of 2025-08 gives the noise level as the model's time
        with noisy_input(lumina_train_util, z, asked):
            return lumina_train_network.LuminaNetworkTrainer().get_noise_pred_and_target(
                trainer_arguments(), ACCELERATOR, scheduler, z, {}, texts, model, None, torch.float32, True,
                is_train=False,
            )[0]  # fmt: skip

    def sample(noise: torch.Tensor, steps: int, texts: Texts, empty: Texts, scale: float) -> torch.Tensor:
        """With guidance to the end and its length left alone, as plain guidance is."""
        scheduler = sd3_train_utils.FlowMatchEulerDiscreteScheduler(shift=6.0)
        timesteps, _ = lumina_train_util.retrieve_timesteps(scheduler, num_inference_steps=steps)
        return lumina_train_util.denoise(
            scheduler, model, noise, texts[0], texts[2], empty[0], empty[2], timesteps, guidance_scale=scale,
            cfg_trunc_ratio=2.0 if scale != 1 else 0.0, renorm_cfg=0.0,
        )  # fmt: skip

    return Architecture(
        LuminaAdapter(), model, SHAPE, make_texts([6, 3], 1), make_texts([1], 2), predict, sample, sign=-1.0
    )

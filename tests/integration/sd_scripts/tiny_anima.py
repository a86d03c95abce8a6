"""Anima of the checkout, small: 2 blocks of 32 channels, a text adapter of 1 block."""

from __future__ import annotations

import torch
from torch import nn

from danceopd_ext.toolkits.sd_scripts.adapters.anima import AnimaAdapter
from tests.integration.sd_scripts.tiny_models import (
    ACCELERATOR,
    Architecture,
    Texts,
    noisy_input,
    randomise,
    trainer_arguments,
)

SHAPE = (16, 8, 12)
TOKENS, T5_TOKENS, TEXT, VOCABULARY = 8, 6, 24, 300


def make_model(attn_mode: str = "torch", split_attn: bool = False, **_) -> nn.Module:
    """The class builds its text adapter at full size: it gets a small one in its place."""
    from library import anima_models

    model = anima_models.Anima(
        max_img_h=64, max_img_w=64, max_frames=8, in_channels=16, out_channels=16, patch_spatial=2, patch_temporal=1,
        model_channels=32, concat_padding_mask=True, crossattn_emb_channels=TEXT, pos_emb_cls="rope3d",
        pos_emb_learnable=True, use_adaln_lora=True, adaln_lora_dim=8, num_blocks=2, num_heads=2,
        rope_h_extrapolation_ratio=4.0, rope_w_extrapolation_ratio=4.0, rope_enable_fps_modulation=False,
        use_llm_adapter=False, attn_mode=attn_mode, split_attn=split_attn,
    )  # fmt: skip
    embed = nn.Embedding(VOCABULARY, TEXT)
    model.llm_adapter = anima_models.LLMAdapter(
        TEXT, TEXT, TEXT, num_layers=1, num_heads=2, embed=embed, self_attn=True
    )
    model.use_llm_adapter = True
    return model


def make_texts(lengths: list[int], t5_lengths: list[int], seed: int) -> Texts:
    """As the toolkit caches them: tokens and masks come back as floats."""
    rng = torch.Generator().manual_seed(seed)
    count = len(lengths)
    mask = (torch.arange(TOKENS)[None] < torch.tensor(lengths)[:, None]).float()
    t5_mask = (torch.arange(T5_TOKENS)[None] < torch.tensor(t5_lengths)[:, None]).float()
    embeds = torch.randn(count, TOKENS, TEXT, generator=rng) * mask[..., None]
    ids = torch.randint(2, VOCABULARY, (count, T5_TOKENS), generator=rng).float() * t5_mask
    return [embeds, mask, ids, t5_mask]


def make() -> Architecture:
    import anima_train_network
    from library import anima_train_utils, flux_train_utils

    model = randomise(make_model())

    def predict(z: torch.Tensor, sigma: torch.Tensor, texts: Texts) -> torch.Tensor:
        with noisy_input(flux_train_utils, z, sigma):
            return anima_train_network.AnimaNetworkTrainer().get_noise_pred_and_target(
                trainer_arguments(), ACCELERATOR, None, z, {}, texts, model, None, torch.float32, True, is_train=False
            )[0]

    def through_the_adapter(texts: Texts) -> torch.Tensor:
        embeds, mask, ids, t5_mask = texts
        out = model.llm_adapter(embeds, ids.long(), target_attention_mask=t5_mask, source_attention_mask=mask)
        out[~t5_mask.bool()] = 0
        return out

    def sample(noise: torch.Tensor, steps: int, texts: Texts, empty: Texts, scale: float) -> torch.Tensor:
        """Noise is drawn inside from a seed: what is drawn there is replaced by ours."""
        height, width = noise.shape[2] * 8, noise.shape[3] * 8
        original, torch.randn = torch.randn, lambda *_, **__: noise.unsqueeze(2)
        try:
            return anima_train_utils.do_sample(
                height, width, None, model, through_the_adapter(texts), steps, torch.float32, noise.device, scale, 3.0,
                through_the_adapter(empty),
            ).squeeze(2)  # fmt: skip
        finally:
            torch.randn = original

    texts, empty = make_texts([6, 3], [5, 2], 1), make_texts([0], [1], 2)
    return Architecture(AnimaAdapter(), model, SHAPE, texts, empty, predict, sample)

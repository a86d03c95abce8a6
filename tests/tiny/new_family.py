"""A model family that this package does not have, in one file, as a contributor would write it: Lumina Image 2.0."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, Lumina2Pipeline, Lumina2Transformer2DModel
from transformers import Gemma2Config, Gemma2Model

from danceopd_ext.models.conditions import PromptTensors, TextConditions
from danceopd_ext.models.family import Family, SizeLimits, Sources, flow_match_shift
from danceopd_ext.models.latent_scale import LatentScale
from danceopd_ext.models.layer_names import Blocks
from danceopd_ext.models.layout import Published
from danceopd_ext.models.packing import even_sigmas, in_groups, stacked
from tests.tiny.families.parts import randomise, tokenizer, vae

LAYERS = (
    "attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0",
    "feed_forward.linear_1", "feed_forward.linear_2", "feed_forward.linear_3",
)  # fmt: skip
SAME = {layer: layer for layer in LAYERS}


class Doubled(LatentScale):
    """A scale that no family of the package has: what the VAE gives, twice."""

    def decode(self, vae: Any, latents_BCHW: torch.Tensor) -> torch.Tensor:
        return vae.decode(latents_BCHW / 2, return_dict=False)[0]

    def encode(self, vae: Any, pixels_B3PQ: torch.Tensor) -> torch.Tensor:
        return vae.encode(pixels_B3PQ).latent_dist.mode() * 2


class Lumina2(Family):
    """The transformer takes 1 - sigma as its time and gives -dz/dsigma."""

    name = "lumina_2"
    other_words = ("luminanext",)
    title = "Lumina Image 2.0 (new)"
    sign = r"(^|[._])(layers|noise_refiner|context_refiner)[._]\d+[._]attn[._]to_"
    architecture = "lumina-2"
    pipeline_class = "Lumina2Pipeline"
    transformer_class = "Lumina2Transformer2DModel"
    latent_scale = Doubled()
    default_components = "Alpha-VLLM/Lumina-Image-2.0"
    lora_targets = LAYERS[:4]
    default_format = "diffusers"
    blocks = {  # noqa: RUF012
        "layers": Blocks("layers", 26, SAME),
        "noise_refiner": Blocks("noise_refiner", 2, SAME),
        "context_refiner": Blocks("context_refiner", 2, SAME),
    }
    outer = {}  # noqa: RUF012
    sizes = (Published("Lumina Image 2.0 (new)", 2304, {"layers": 26}),)
    checkpoint_marks = ("time_caption_embed.caption_embedder.",)
    longest_text = 256

    def encode_prompts(
        self, pipeline: Any, prompts: list[str], sources: Sequence[Sources] | None = None
    ) -> list[PromptTensors]:
        embeds, mask, *_ = pipeline.encode_prompt(list(prompts), do_classifier_free_guidance=False)
        pairs = zip(embeds.detach().cpu(), mask.cpu().bool(), strict=True)
        return [{"embeds": one[own].contiguous()} for one, own in pairs]

    def velocity(
        self, transformer: torch.nn.Module, z_BCHW: torch.Tensor, sigma_B: torch.Tensor, condition: TextConditions
    ) -> torch.Tensor:
        return in_groups(partial(self._velocity, transformer), z_BCHW, sigma_B, condition)

    def _velocity(
        self, transformer: torch.nn.Module, z_BCHW: torch.Tensor, sigma_B: torch.Tensor, items: Sequence[PromptTensors]
    ) -> torch.Tensor:
        dtype = transformer.x_embedder.weight.dtype
        embeds = stacked(items, "embeds", dtype)
        mask = torch.ones(embeds.shape[:2], dtype=torch.bool, device=embeds.device)
        return -transformer(z_BCHW.to(dtype), 1 - sigma_B, embeds, mask, return_dict=False)[0]

    def scheduler_arguments(self, scheduler: Any, transformer_config: Mapping, steps: int, latent_hw: tuple) -> dict:
        mu = flow_match_shift(scheduler.config, latent_hw[0] * latent_hw[1] // 4, default_max_shift=1.15)
        return {"sigmas": even_sigmas(steps), "mu": mu}

    def size_limits(self, transformer_config: Mapping, vae_scale_factor: int) -> SizeLimits:
        return SizeLimits(multiple=2 * vae_scale_factor, maximum=1024)


def save_pipeline(folder: Path, seed: int = 0) -> Path:
    """A hub-layout folder of a tiny random pipeline of this family."""
    torch.manual_seed(seed)
    text = Gemma2Config(
        vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, head_dim=8,
    )  # fmt: skip
    transformer = Lumina2Transformer2DModel(
        sample_size=16, in_channels=4, hidden_size=24, num_layers=2, num_refiner_layers=1, num_attention_heads=2,
        num_kv_heads=1, multiple_of=8, axes_dim_rope=(4, 4, 4), axes_lens=(64, 32, 32), cap_feat_dim=16,
    )  # fmt: skip
    randomise(transformer, seed)
    Lumina2Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae(4, seed),
        text_encoder=Gemma2Model(text).eval(),
        tokenizer=tokenizer(256),
    ).save_pretrained(folder)
    return folder

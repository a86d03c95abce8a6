"""Supports FLUX.1 (dev) and FLUX.1 Kontext through diffusers.

Latents are the VAE's 16 channels; the transformer takes them as tokens. Shape suffixes: T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image

from danceopd_ext.models.conditions import PromptTensors
from danceopd_ext.models.family import Sources
from danceopd_ext.models.flux_names import FluxNames
from danceopd_ext.models.grouped import PackedFamily
from danceopd_ext.models.packing import pack, stacked, unpack, with_sources
from danceopd_ext.models.part_files import clip_l, t5xxl, vae_file
from danceopd_ext.models.resizing import Size, floor_to, nearest_ratio


class Flux(FluxNames, PackedFamily):
    """The transformer takes sigma as its time and gives dz/dsigma as it is.

    It is guidance-distilled: it takes a guidance scale as an input and needs one forward, not two. Training uses the
    scale that people draw with, so that rollouts are their pictures.
    """

    pipeline_class = "FluxPipeline"
    transformer_class = "FluxTransformer2DModel"
    default_components = "black-forest-labs/FLUX.1-dev"
    comfyui_file = "models/diffusion_models/flux1-dev.safetensors"
    part_files = (  # musubi counts the text encoders the other way round
        clip_l("text_encoder2"),
        t5xxl("text_encoder_2", "text_encoder1"),
        vae_file("models/vae/ae.safetensors"),
    )
    checkpoint_marks = ("double_blocks.0.img_mod.lin.", "single_transformer_blocks.0.proj_mlp.")
    embedded_guidance = 3.5

    def encode_prompts(
        self, pipeline: Any, prompts: list[str], sources: Sequence[Sources] | None = None
    ) -> list[PromptTensors]:
        embeds, pooled, _ = pipeline.encode_prompt(list(prompts), prompt_2=None)
        pairs = zip(embeds.detach().cpu(), pooled.detach().cpu(), strict=True)
        return [{"embeds": e.contiguous(), "pooled": p.contiguous()} for e, p in pairs]

    def text_shapes(self, transformer_config: Mapping, tokens: int, sources: int) -> dict[str, tuple[int, ...]]:
        shapes = super().text_shapes(transformer_config, tokens, sources)
        return {**shapes, "pooled": (transformer_config["pooled_projection_dim"],)}

    def text_length(self, pipeline: Any, prompt: str) -> int:
        return len(pipeline.tokenizer_2(prompt, verbose=False).input_ids)

    def _velocity(
        self, transformer: torch.nn.Module, z_BCHW: torch.Tensor, sigma_B: torch.Tensor, items: Sequence[PromptTensors]
    ) -> torch.Tensor:
        """The velocity of samples whose conditions have the same shapes."""
        dtype = transformer.transformer_blocks[0].attn.norm_q.weight.dtype  # transformer.dtype walks all parameters
        height, width = z_BCHW.shape[2:]
        pictures = with_sources(z_BCHW, items)
        tokens = [pack(picture) for picture in pictures]
        places = [_places(*picture.shape[2:], source=i > 0) for i, picture in enumerate(pictures)]
        embeds = stacked(items, "embeds", dtype)
        out = transformer(
            hidden_states=torch.cat(tokens, dim=1).to(dtype),
            timestep=sigma_B * 1000 / 1000,  # the pipeline's own arithmetic
            guidance=self._guidance(transformer, sigma_B),
            pooled_projections=stacked(items, "pooled", dtype),
            encoder_hidden_states=embeds,
            txt_ids=torch.zeros(embeds.shape[1], 3, device=embeds.device),
            img_ids=torch.cat(places).to(embeds.device),
            return_dict=False,
        )[0]
        return unpack(out[:, : tokens[0].shape[1]], height, width)

    def _guidance(self, transformer: torch.nn.Module, sigma_B: torch.Tensor) -> torch.Tensor | None:
        if not transformer.config.guidance_embeds:
            return None
        return torch.full_like(sigma_B, self.embedded_guidance, dtype=torch.float32)


class FluxKontext(Flux):
    """FLUX.1 Kontext: source tokens follow those of the picture; the first axis of places distinguishes them."""

    name = "flux_kontext"
    other_words = ("kontext", "flux1kontext", "fluxkontextdev")
    title = "FLUX.1 Kontext"
    pipeline_class = "FluxKontextPipeline"
    default_components = "black-forest-labs/FLUX.1-Kontext-dev"
    comfyui_file = "models/diffusion_models/flux1-dev-kontext_fp8_scaled.safetensors"
    max_sources = 1
    embedded_guidance = 2.5  # from its model card and ComfyUI's workflow; the pipeline's default is FLUX.1 dev's

    def source_picture(self, image: Image.Image, vae_scale_factor: int, drawn: Size) -> Image.Image:
        multiple = 2 * vae_scale_factor
        return image.resize(kontext_size(image.size, multiple), Image.Resampling.LANCZOS)


def kontext_size(size: tuple[int, int], multiple: int = 16) -> tuple[int, int]:
    """Return the (width, height) known to Kontext whose proportions are nearest to `size`."""
    from diffusers.pipelines.flux import pipeline_flux_kontext  # imported here: it takes seconds

    known = pipeline_flux_kontext.PREFERRED_KONTEXT_RESOLUTIONS
    return floor_to(nearest_ratio(floor_to(size, multiple), known), multiple)


def _places(height: int, width: int, source: bool) -> torch.Tensor:
    """(is a source, row, column) of each token, [T, 3]."""
    rows, columns = torch.meshgrid(torch.arange(height // 2), torch.arange(width // 2), indexing="ij")
    return torch.stack([torch.full_like(rows, int(source)), rows, columns], dim=-1).flatten(0, 1).float()

"""Supports FLUX.2 (dev) and FLUX.2 Klein through diffusers.

Latents are squares of 2 x 2 of the VAE's latents, 128 channels: one token each. Shape suffixes: T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image

from danceopd_ext.errors import UserError
from danceopd_ext.models.conditions import PromptTensors
from danceopd_ext.models.family import SizeLimits, Sources
from danceopd_ext.models.flux_2_names import Flux2Names
from danceopd_ext.models.grouped import GroupedFamily
from danceopd_ext.models.latent_scale import LatentScale
from danceopd_ext.models.packing import even_sigmas, stacked, with_sources
from danceopd_ext.models.part_files import PartFile, vae_file
from danceopd_ext.models.resizing import SOURCE_AREA, Size, floor_to, middle, shrunk

#: places of source images on the first axis: the first at 10, the next at 20, ...
SOURCE_STEP = 10
#: what the pipeline accepts as a source image
SMALLEST_SIDE, LONGEST_RATIO = 64, 8


class SquareScale(LatentScale):
    """AutoencoderKLFlux2's: squares of 2 x 2 latents become channels, which a batch norm brings to one scale."""

    def decode(self, vae: Any, latents_BCHW: torch.Tensor) -> torch.Tensor:
        mean, deviation = self._statistics(vae, latents_BCHW)
        return vae.decode(torch.pixel_shuffle(latents_BCHW * deviation + mean, 2), return_dict=False)[0]

    def encode(self, vae: Any, pixels_B3PQ: torch.Tensor) -> torch.Tensor:
        latents = torch.pixel_unshuffle(vae.encode(pixels_B3PQ).latent_dist.mode(), 2)
        mean, deviation = self._statistics(vae, latents)
        return (latents - mean) / deviation

    def _statistics(self, vae: Any, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean = vae.bn.running_mean.view(1, -1, 1, 1).to(like)
        return mean, torch.sqrt(vae.bn.running_var.view(1, -1, 1, 1) + vae.config.batch_norm_eps).to(like)


class Flux2(Flux2Names, GroupedFamily):
    """The transformer takes sigma as its time and gives dz/dsigma as it is; dev takes a guidance scale as an input."""

    pipeline_class = "Flux2Pipeline"
    transformer_class = "Flux2Transformer2DModel"
    vae_class = "AutoencoderKLFlux2"
    latent_scale = SquareScale()
    default_components = "black-forest-labs/FLUX.2-dev"
    comfyui_file = "models/diffusion_models/flux2_dev_fp8mixed.safetensors"
    part_files = (
        PartFile(
            "text_encoder", "Mistral 3 text encoder", ("text_encoder",),
            (
                "models/text_encoders/mistral_3_small_flux2_bf16.safetensors",
                "models/text_encoders/mistral_3_small_flux2_fp8.safetensors",
            ),
            ("text_encoders.mistral3_24b.transformer.",), last_state=30,
        ),
        vae_file("models/vae/flux2-vae.safetensors"),
    )  # fmt: skip
    checkpoint_marks = ("single_stream_modulation.lin",)
    embedded_guidance = 4.0
    max_sources = 10
    #: dev has a guidance embedding and Klein does not, so names tell them apart
    has_guidance_embedding = True

    def encode_prompts(
        self, pipeline: Any, prompts: list[str], sources: Sequence[Sources] | None = None
    ) -> list[PromptTensors]:
        embeds, _ = pipeline.encode_prompt(list(prompts))
        return [{"embeds": e.contiguous()} for e in embeds.detach().cpu()]

    def text_length(self, pipeline: Any, prompt: str) -> int:
        from diffusers.pipelines.flux2.pipeline_flux2 import format_input  # here: it takes seconds to import

        chats = format_input(prompts=[prompt], system_message=pipeline.system_message)
        found = pipeline.tokenizer.apply_chat_template(
            chats, add_generation_prompt=False, tokenize=True, return_dict=True
        )
        return len(found["input_ids"][0])

    def _velocity(
        self, transformer: torch.nn.Module, z_BCHW: torch.Tensor, sigma_B: torch.Tensor, items: Sequence[PromptTensors]
    ) -> torch.Tensor:
        """The velocity of samples whose conditions have the same shapes."""
        dtype = transformer.transformer_blocks[0].attn.norm_q.weight.dtype  # transformer.dtype walks all parameters
        pictures = with_sources(z_BCHW, items)
        places = [_places(*picture.shape[2:], SOURCE_STEP * i) for i, picture in enumerate(pictures)]
        embeds = stacked(items, "embeds", dtype)
        guidance = None
        if transformer.config.guidance_embeds:
            guidance = torch.full_like(sigma_B, self.embedded_guidance, dtype=torch.float32)
        out = transformer(
            hidden_states=torch.cat([picture.flatten(2).mT for picture in pictures], dim=1).to(dtype),
            timestep=sigma_B * 1000 / 1000,  # the pipeline's own arithmetic
            guidance=guidance,
            encoder_hidden_states=embeds,
            txt_ids=_words(embeds.shape[1]).to(embeds.device),
            img_ids=torch.cat(places).to(embeds.device),
            return_dict=False,
        )[0]
        return out[:, : z_BCHW[0, 0].numel()].mT.reshape(z_BCHW.shape)

    def scheduler_arguments(self, scheduler: Any, transformer_config: Mapping, steps: int, latent_hw: tuple) -> dict:
        from diffusers.pipelines.flux2.pipeline_flux2 import compute_empirical_mu  # here: it takes seconds to import

        mu = compute_empirical_mu(image_seq_len=latent_hw[0] * latent_hw[1], num_steps=steps)
        if scheduler.config.get("use_flow_sigmas"):
            return {"num_inference_steps": steps, "mu": mu}
        return {"sigmas": even_sigmas(steps), "mu": mu}

    def latent_shape(self, transformer_config: Mapping, vae_scale_factor: int, width: int, height: int):
        pixels = 2 * vae_scale_factor
        return transformer_config["in_channels"], height // pixels, width // pixels

    def size_limits(self, transformer_config: Mapping, vae_scale_factor: int) -> SizeLimits:
        return SizeLimits(multiple=2 * vae_scale_factor, maximum=4096)  # places have no table: any size goes

    def source_picture(self, image: Image.Image, vae_scale_factor: int, drawn: Size) -> Image.Image:
        check_source(image, self.title)
        image = shrunk(image, SOURCE_AREA)
        return middle(image, floor_to(image.size, 2 * vae_scale_factor))

    def vae_from_original(self, tensors: Mapping[str, torch.Tensor], config: Mapping) -> dict[str, torch.Tensor]:
        # the release has these inside encoder and decoder, ComfyUI's file may have them outside
        moved = {"encoder.quant_conv.": "quant_conv.", "decoder.post_quant_conv.": "post_quant_conv."}
        for old, new in moved.items():
            tensors = {name.replace(old, new, 1): tensor for name, tensor in tensors.items()}
        statistics = {name: tensor for name, tensor in tensors.items() if name.startswith("bn.")}
        return super().vae_from_original(tensors, config) | statistics

    def knows_checkpoint(self, tensor_names: Sequence[str]) -> bool:
        told = any("guidance_in." in name or "guidance_embedder." in name for name in tensor_names)
        return super().knows_checkpoint(tensor_names) and told == self.has_guidance_embedding


class Flux2Klein(Flux2):
    """FLUX.2 Klein: another text encoder, no guidance embedding; the base models are guided by the empty prompt."""

    name = "flux_2_klein"
    other_words = ("klein", "flux2klein4b", "flux2klein9b")
    title = "FLUX.2 Klein"
    architecture = "Flux.2-klein-4b"
    pipeline_class = "Flux2KleinPipeline"
    default_components = "black-forest-labs/FLUX.2-klein-base-4B"
    comfyui_file = "models/diffusion_models/flux-2-klein-base-4b.safetensors"
    part_files = (
        PartFile(
            "text_encoder", "Qwen3 text encoder", ("text_encoder", "qwen3"),
            (
                "models/text_encoders/qwen_3_4b.safetensors",
                "models/text_encoders/qwen_3_8b_fp8mixed.safetensors",
            ),
            ("text_encoders.qwen3_4b.transformer.", "text_encoders.qwen3_8b.transformer."),
        ),
        vae_file("models/vae/flux2-vae.safetensors"),
    )  # fmt: skip
    embedded_guidance = None
    has_guidance_embedding = False

    def text_length(self, pipeline: Any, prompt: str) -> int:
        chat = pipeline.tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
        return len(pipeline.tokenizer(chat, verbose=False).input_ids)


def check_source(image: Image.Image, title: str) -> None:
    """Raise UserError for a source image that the pipeline would not accept."""
    if min(image.size) < SMALLEST_SIDE or max(image.size) > LONGEST_RATIO * min(image.size):
        raise UserError(
            f"{title}: a source image of {image.width} x {image.height} is too small or too elongated. Each side "
            f"must have {SMALLEST_SIDE} pixels or more, and the longer side at most {LONGEST_RATIO} times the shorter."
        )


def _places(height: int, width: int, source: int) -> torch.Tensor:
    """(source, row, column, 0) of each token, [T, 4]."""
    zero = torch.zeros(1, dtype=torch.long)
    return torch.cartesian_prod(zero + source, torch.arange(height), torch.arange(width), zero)


def _words(count: int) -> torch.Tensor:
    """(0, 0, 0, place in the text) of each text token, [T, 4]."""
    zero = torch.zeros(1, dtype=torch.long)
    return torch.cartesian_prod(zero, zero, zero, torch.arange(count))

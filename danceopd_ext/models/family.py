"""Defines what each model family describes; the rest of the project does not depend on an architecture.

Shape suffixes: B samples, C latent channels, H and W latent height and width, N solver steps.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from danceopd_ext.errors import UserError
from danceopd_ext.method import Field, guided
from danceopd_ext.models.conditions import PromptTensors, TextConditions
from danceopd_ext.models.latent_scale import LatentScale
from danceopd_ext.models.layer_names import LayerNames
from danceopd_ext.models.part_files import PartFile
from danceopd_ext.models.resizing import Size
from danceopd_ext.rgb import as_rgb

__all__ = ["Family", "PromptTensors", "SizeLimits", "Sources", "TextConditions", "flow_match_shift"]


@dataclass(frozen=True)
class Sources:
    """The source images of one sample (or none), and the size of the picture that is drawn from them.

    `drawn`: (width, height) in pixels; pipelines may scale large source images to it.
    """

    images: Sequence[Image.Image]
    drawn: Size


@dataclass(frozen=True)
class SizeLimits:
    """Image sizes that the model takes, in pixels: a multiple of `multiple` up to `maximum` on each side."""

    multiple: int
    maximum: int


class Family(LayerNames, ABC):
    """One architecture: how to load it, its sigma grid, its latents, its velocity and its layers' names.

    `name` is the preset's model_type.
    """

    #: class names in diffusers
    pipeline_class: str
    transformer_class: str
    vae_class: str = "AutoencoderKL"
    #: converts this VAE's latents to the transformer's scale
    latent_scale: LatentScale = LatentScale()
    #: folders of the pipeline that determine the text encoders' output
    text_parts: tuple[str, ...] = (
        "tokenizer", "tokenizer_2", "tokenizer_3", "text_encoder", "text_encoder_2", "text_encoder_3",
    )  # fmt: skip
    #: hub id that supplies what a single .safetensors file does not contain
    default_components: str
    #: the parts, besides the transformer, that creators have as files of their own
    part_files: tuple[PartFile, ...] = ()
    #: where ComfyUI keeps the transformer
    comfyui_file: str = ""
    #: substrings of tensor names that only this family's checkpoints have
    checkpoint_marks: tuple[str, ...]
    #: substrings of tensor names that a checkpoint of this family does not have, if another family's has both
    other_marks: tuple[str, ...] = ()

    #: how many source images a sample may have; a family with 1 or more can edit
    max_sources: int = 0
    #: whether the result of `encode_prompts` also depends on the source images
    text_sees_sources: bool = False
    #: the value for the model's guidance embedding, if it has one: the pipeline's default
    embedded_guidance: float | None = None
    #: how many tokens of a prompt the pipeline reads, including its template's; it cuts the rest
    longest_text: int = 512

    @property
    def can_edit(self) -> bool:
        return self.max_sources > 0

    @abstractmethod
    def encode_prompts(
        self, pipeline: Any, prompts: list[str], sources: Sequence[Sources] | None = None
    ) -> list[PromptTensors]:
        """Return the output of the pipeline's own text encoders for each prompt, on the CPU.

        `sources`: the source images of each prompt, for families whose text encoder sees them too.
        """

    def text_length(self, pipeline: Any, prompt: str) -> int:
        """Return how many tokens a prompt has, including its template's, before the pipeline cuts any."""
        return len(pipeline.tokenizer(prompt, verbose=False).input_ids)

    def condition_shapes(
        self, transformer_config: Mapping, tokens: int, sources: Sequence[tuple[int, int, int]] = ()
    ) -> dict[str, tuple[int, ...]]:
        """Return the shapes of a sample's condition without its latents, for a plan: name -> shape.

        `tokens`: of its prompt, if the pipeline does not pad it. `sources`: (C, H, W) of its source images' latents.
        """
        shapes = self.text_shapes(transformer_config, tokens, len(sources))
        return {**shapes, **{f"source_{number}": shape for number, shape in enumerate(sources)}}

    def text_shapes(self, transformer_config: Mapping, tokens: int, sources: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of an encoded prompt for a plan; `sources`: how many source images it comes with."""
        return {"embeds": (self.longest_text, transformer_config["joint_attention_dim"])}

    def text_room(self, pipeline: Any, transformer_config: Mapping, sources: int = 0) -> int:
        """Return how many of these tokens the model gets for a prompt with this many source images."""
        return self.longest_text

    def encode_sources(self, vae: Any, sources: Sources) -> PromptTensors:
        """Return the latents of one sample's source images as `source_0`, `source_1`, ..., each [C, H, W], on the CPU.

        Raises UserError if there are more images than the family takes, or if one cannot be used.
        """
        if not 0 < len(sources.images) <= self.max_sources:
            takes = f"1 to {self.max_sources}" if self.max_sources else "no"
            raise UserError(f"{self.title} takes {takes} source images, not {len(sources.images)}.")
        scale = self.latent_scale.pixels_per_latent(vae.config)
        images = [as_rgb(image, f"{self.title}: cannot use a source image") for image in sources.images]
        pictures = [self.source_picture(image, scale, sources.drawn) for image in images]
        encoded = [self.encode(vae, as_pixels(picture))[0].cpu().contiguous() for picture in pictures]
        return {f"source_{i}": latents for i, latents in enumerate(encoded)}

    @torch.no_grad()
    def encode(self, vae: Any, pixels: torch.Tensor) -> torch.Tensor:
        """Return latents [B, C, H, W] of pictures [B, 3, height, width] in -1..1: the VAE distribution's mode."""
        return self.latent_scale.encode(vae, pixels.to(vae.device, vae.dtype))

    def source_picture(self, image: Image.Image, vae_scale_factor: int, drawn: Size) -> Image.Image:
        """Return an RGB source image in the size in which the pipeline encodes it to draw `drawn`. Raises UserError."""
        raise UserError(f"{self.title} does not take source images.")

    def source_size(self, size: Size, vae_scale_factor: int, drawn: Size) -> Size:
        """Return the (width, height) to which `source_picture` resizes a source image of this size.

        Raises UserError.
        """
        return self.source_picture(Image.new("L", size), vae_scale_factor, drawn).size

    def scaled_area(self, size: Size, drawn: Size) -> int | None:
        """Return the pixels of a scaled source image of this size, if that depends on `drawn`, the picture's size.

        None if it does not: then the image's encodings are the same whatever is drawn from it.
        """
        return None

    @abstractmethod
    def velocity(
        self, transformer: torch.nn.Module, z_BCHW: torch.Tensor, sigma_B: torch.Tensor, condition: TextConditions
    ) -> torch.Tensor:
        """Return dz/dsigma [B, C, H, W] at noise level sigma in 0..1 (1 is pure noise)."""

    @abstractmethod
    def scheduler_arguments(self, scheduler: Any, transformer_config: Mapping, steps: int, latent_hw: tuple) -> dict:
        """Return what the family's pipeline passes to `scheduler.set_timesteps` for this latent size."""

    @abstractmethod
    def size_limits(self, transformer_config: Mapping, vae_scale_factor: int) -> SizeLimits: ...

    def guided(self, field: Field, guidance_scale: float) -> Field:
        """Return classifier-free guidance as the family's pipeline computes it."""
        return guided(field, guidance_scale)

    def select_attention(self, transformer: torch.nn.Module, name: str) -> None:
        """Use the attention backend `name` (diffusers' names; "sdpa" is torch's own). Raises ValueError."""
        if name != "sdpa":
            transformer.set_attention_backend(name)

    def sigmas(self, scheduler: Any, transformer_config: Mapping, steps: int, latent_hw: tuple[int, int]):
        """Return the pipeline's own sigma grid [N + 1] for this latent size, falling to 0, float32."""
        scheduler = copy.deepcopy(scheduler)
        scheduler.set_timesteps(**self.scheduler_arguments(scheduler, transformer_config, steps, latent_hw))
        return scheduler.sigmas.float().cpu()

    def count_blocks(self, layers: Iterable[str]) -> int:
        """Return how many repeated blocks a transformer with these layers has."""
        places = (layer.split(".") for layer in layers)
        return len({(place[0], place[1]) for place in places if place[0] in self.blocks})

    def repeated_blocks(self, transformer: torch.nn.Module) -> list[torch.nn.Module]:
        """Return the transformer's blocks in the order in which they compute; diffusers registers them in it."""
        lists = [child for name, child in transformer.named_children() if name in self.blocks]
        return [block for blocks in lists for block in blocks]

    def vae_from_original(self, tensors: Mapping[str, torch.Tensor], config: Mapping) -> dict[str, torch.Tensor]:
        """Return a VAE's tensors of the original release under diffusers' names; `config`: diffusers' configuration."""
        from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint  # here: it takes seconds to import

        return convert_ldm_vae_checkpoint(dict(tensors), config)

    def knows_checkpoint(self, tensor_names: Sequence[str]) -> bool:
        """Return whether a checkpoint with these tensors can be of this family."""
        own, others = (
            any(mark in name for name in tensor_names for mark in marks)
            for marks in (self.checkpoint_marks, self.other_marks)
        )
        return own and not others

    def latent_shape(self, transformer_config: Mapping, vae_scale_factor: int, width: int, height: int):
        """Return (C, H, W) of the latents of a picture of width x height pixels."""
        return transformer_config["in_channels"], height // vae_scale_factor, width // vae_scale_factor


def flow_match_shift(config: Mapping, image_tokens: int, default_max_shift: float) -> float:
    """Return mu of the resolution-dependent shift, linear in the number of image tokens, as in diffusers."""
    low, high = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    base, top = config.get("base_shift", 0.5), config.get("max_shift", default_max_shift)
    slope = (top - base) / (high - low)
    return image_tokens * slope + base - slope * low


def as_pixels(image: Image.Image) -> torch.Tensor:
    """Return an RGB image as [1, 3, height, width] in -1..1."""
    values = np.asarray(image, dtype=np.float32)[None] / 255.0
    return 2.0 * torch.from_numpy(values.transpose(0, 3, 1, 2)) - 1.0  # strides as diffusers' processor leaves them

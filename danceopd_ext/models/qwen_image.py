"""Supports Qwen-Image, Qwen-Image-Edit and Qwen-Image-Edit-Plus through diffusers.

Latents are the VAE's 16 channels without its axis of frames; the transformer takes them as tokens.
Shape suffixes: B samples, L text tokens, D text features, C latent channels, H and W latent height and width.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image

from danceopd_ext.errors import UserError, shorten
from danceopd_ext.method import Field
from danceopd_ext.models.conditions import SOURCE, PromptTensors
from danceopd_ext.models.family import Sources
from danceopd_ext.models.grouped import PackedFamily
from danceopd_ext.models.guidance import keeping_length
from danceopd_ext.models.latent_scale import LatentScale
from danceopd_ext.models.packing import pack, unpack, with_sources
from danceopd_ext.models.part_files import PartFile, vae_file
from danceopd_ext.models.qwen_image_names import QwenImageNames
from danceopd_ext.models.resizing import GLANCE_AREA, SOURCE_AREA, Size, of_area

#: tokens of an edit's text, including those of its source images: the transformer's table of places has 4096, and those
#: of the picture come first
LONGEST_EDIT = 4096 - 256
#: pixels of a source image that the text encoder sees as one token
PIXELS_PER_TOKEN = 28 * 28


class FrameScale(LatentScale):
    """AutoencoderKLQwenImage's: a video VAE, here of one frame, with a mean and a deviation for each channel."""

    def decode(self, vae: Any, latents_BCHW: torch.Tensor) -> torch.Tensor:
        mean, deviation = self._statistics(vae, latents_BCHW)
        # the pipeline divides by the inverse of the deviation, which rounds differently from a product
        latents = latents_BCHW.unsqueeze(2) / (1.0 / deviation) + mean
        return vae.decode(latents, return_dict=False)[0][:, :, 0]

    def encode(self, vae: Any, pixels_B3PQ: torch.Tensor) -> torch.Tensor:
        latents = vae.encode(pixels_B3PQ.unsqueeze(2)).latent_dist.mode()
        mean, deviation = self._statistics(vae, latents)
        return ((latents - mean) / deviation).squeeze(2)

    def pixels_per_latent(self, config: Any) -> int:
        return 2 ** len(config["temperal_downsample"])

    def _statistics(self, vae: Any, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        both = (vae.config.latents_mean, vae.config.latents_std)
        mean, deviation = (torch.tensor(values).view(1, -1, 1, 1, 1).to(like) for values in both)
        return mean, deviation


class QwenImage(QwenImageNames, PackedFamily):
    """The transformer takes sigma as its time and gives dz/dsigma as it is; texts are padded and masked."""

    pipeline_class = "QwenImagePipeline"
    transformer_class = "QwenImageTransformer2DModel"
    vae_class = "AutoencoderKLQwenImage"
    latent_scale = FrameScale()
    default_components = "Qwen/Qwen-Image"
    comfyui_file = "models/diffusion_models/qwen_image_fp8_e4m3fn.safetensors"
    part_files = (
        PartFile(
            "text_encoder", "Qwen2.5-VL 7B text encoder", ("text_encoder",),
            (
                "models/text_encoders/qwen_2.5_vl_7b_fp8_scaled.safetensors",
                "models/text_encoders/qwen_2.5_vl_7b.safetensors",
            ),
            ("text_encoders.qwen25_7b.transformer.",),
        ),
        vae_file("models/vae/qwen_image_vae.safetensors"),
    )  # fmt: skip
    checkpoint_marks = ("transformer_blocks.0.img_mlp.net.0.proj.",)
    longest_text = 1024
    grouped_by = SOURCE

    def encode_prompts(
        self, pipeline: Any, prompts: list[str], sources: Sequence[Sources] | None = None
    ) -> list[PromptTensors]:
        embeds, mask = pipeline.encode_prompt(list(prompts))
        return _without_padding(embeds, mask)

    def text_shapes(self, transformer_config: Mapping, tokens: int, sources: int) -> dict[str, tuple[int, ...]]:
        return {"embeds": (min(tokens, self.longest_text), transformer_config["joint_attention_dim"])}

    def text_length(self, pipeline: Any, prompt: str) -> int:
        return len(pipeline.tokenizer(pipeline.prompt_template_encode.format(prompt), verbose=False).input_ids)

    def text_room(self, pipeline: Any, transformer_config: Mapping, sources: int = 0) -> int:
        # the edit pipelines do not cut prompts: see QwenImageEdit.encode_prompts
        return sys.maxsize if sources else self.longest_text + pipeline.prompt_template_encode_start_idx

    def _velocity(
        self, transformer: torch.nn.Module, z_BCHW: torch.Tensor, sigma_B: torch.Tensor, items: Sequence[PromptTensors]
    ) -> torch.Tensor:
        """The velocity of samples whose source images have the same sizes."""
        dtype = transformer.txt_norm.weight.dtype  # transformer.dtype walks through all parameters
        height, width = z_BCHW.shape[2:]
        pictures = with_sources(z_BCHW, items)
        tokens = [pack(picture) for picture in pictures]
        embeds, mask = _padded([item["embeds"] for item in items], dtype)
        out = transformer(
            hidden_states=torch.cat(tokens, dim=1).to(dtype),
            timestep=sigma_B * 1000 / 1000,  # the pipeline's own arithmetic
            encoder_hidden_states=embeds,
            encoder_hidden_states_mask=mask,
            img_shapes=[[(1, p.shape[2] // 2, p.shape[3] // 2) for p in pictures]] * len(items),
            return_dict=False,
        )[0]
        return unpack(out[:, : tokens[0].shape[1]], height, width)

    def vae_from_original(self, tensors: Mapping[str, torch.Tensor], config: Mapping) -> dict[str, torch.Tensor]:
        from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers  # here: it takes seconds to import

        return convert_wan_vae_to_diffusers(dict(tensors))  # the VAE is Wan's, and so are its names

    def guided(self, field: Field, guidance_scale: float) -> Field:
        return keeping_length(field, guidance_scale)


class QwenImageEdit(QwenImage):
    """Qwen-Image-Edit: the text encoder sees the source image, and its tokens follow those of the picture.

    A prompt without one is drawn as Qwen-Image draws it: the transformer is the same.
    """

    name = "qwen_image_edit"
    other_words = ("qwenedit",)
    title = "Qwen-Image-Edit"
    architecture = "qwen-image-edit"
    pipeline_class = "QwenImageEditPipeline"
    default_components = "Qwen/Qwen-Image-Edit"
    comfyui_file = "models/diffusion_models/qwen_image_edit_fp8_e4m3fn.safetensors"
    max_sources = 1
    text_sees_sources = True
    text_parts = (*QwenImage.text_parts, "processor")
    #: pixels of a source for the VAE and for the text encoder
    source_area, glance_area = SOURCE_AREA, SOURCE_AREA

    def encode_prompts(
        self, pipeline: Any, prompts: list[str], sources: Sequence[Sources] | None = None
    ) -> list[PromptTensors]:
        drawing, items = _drawing(pipeline), []
        # one by one: the pipelines take one edit at a time
        for prompt, own in zip(prompts, sources or [Sources((), (0, 0))] * len(prompts), strict=True):
            if own.images:
                glances = [_resized(image.convert("RGB"), self.glance_area) for image in own.images]
                (item,) = _without_padding(*pipeline.encode_prompt([prompt], image=self._as_seen(glances)))
                if len(item["embeds"]) > LONGEST_EDIT:
                    raise UserError(
                        f'{self.title} cannot use the prompt "{shorten(prompt)}": together with its source '
                        f"images it has {len(item['embeds']):,} tokens, more than {LONGEST_EDIT:,}. Shorten it."
                    )
                items.append(item)
            else:
                items += super().encode_prompts(drawing, [prompt])
        return items

    def text_shapes(self, transformer_config: Mapping, tokens: int, sources: int) -> dict[str, tuple[int, ...]]:
        seen = sources * (self.glance_area // PIXELS_PER_TOKEN)
        return {"embeds": (min(tokens + seen, LONGEST_EDIT), transformer_config["joint_attention_dim"])}

    def _as_seen(self, glances: list[Image.Image]) -> Any:
        return glances[0]

    def source_picture(self, image: Image.Image, vae_scale_factor: int, drawn: Size) -> Image.Image:
        return _resized(image, self.source_area)


class QwenImageEditPlus(QwenImageEdit):
    """Qwen-Image-Edit-2509 and later: several source images, numbered in the prompt, seen at low resolution."""

    name = "qwen_image_edit_plus"
    other_words = ("qwenimageedit2509", "qwenimageedit2511")
    title = "Qwen-Image-Edit-Plus"
    architecture = "qwen-image-edit-plus"
    pipeline_class = "QwenImageEditPlusPipeline"
    default_components = "Qwen/Qwen-Image-Edit-2509"
    comfyui_file = "models/diffusion_models/qwen_image_edit_2509_fp8_e4m3fn.safetensors"
    max_sources = 8
    glance_area = GLANCE_AREA

    def _as_seen(self, glances: list[Image.Image]) -> Any:
        return glances


def _drawing(pipeline: Any) -> Any:
    """Return the pipeline that draws from text, around the text encoder of an edit pipeline."""
    from diffusers import QwenImagePipeline  # here: it takes seconds to import

    return QwenImagePipeline(
        scheduler=None, vae=None, text_encoder=pipeline.text_encoder, tokenizer=pipeline.tokenizer, transformer=None
    )


def _resized(image: Image.Image, area: int) -> Image.Image:
    return image.resize(of_area(image.size, area), Image.Resampling.LANCZOS)


def _without_padding(embeds_BLD: torch.Tensor, mask_BL: torch.Tensor | None) -> list[PromptTensors]:
    embeds = embeds_BLD.detach().cpu()
    if mask_BL is None:
        return [{"embeds": one.contiguous()} for one in embeds]
    return [{"embeds": one[mask.bool()].contiguous()} for one, mask in zip(embeds, mask_BL.cpu(), strict=True)]


def _padded(texts: Sequence[torch.Tensor], dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return texts [L, D] of unequal length as [B, L, D], and their mask [B, L]; None if all is text."""
    lengths = [len(text) for text in texts]
    embeds = torch.nn.utils.rnn.pad_sequence(list(texts), batch_first=True).to(dtype)
    if len(set(lengths)) == 1:
        return embeds, None
    return embeds, (torch.arange(embeds.shape[1]) < torch.tensor(lengths)[:, None]).to(embeds.device)

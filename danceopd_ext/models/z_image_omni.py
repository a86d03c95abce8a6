"""Supports Z-Image's editing variant (Omni) through diffusers: source images stand between the parts of the prompt.

Shape suffixes: B samples, C latent channels, H and W latent height and width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image

from danceopd_ext.models.conditions import SOURCE, PromptTensors, numbered
from danceopd_ext.models.family import Sources
from danceopd_ext.models.flux_2 import check_source
from danceopd_ext.models.grouped import GroupedFamily
from danceopd_ext.models.layer_names import Blocks
from danceopd_ext.models.layout import Published
from danceopd_ext.models.resizing import SOURCE_AREA, Size, floor_to, middle, scaled_to
from danceopd_ext.models.z_image import BLOCK, REFINER, ZImage, room_in_places, within_places

#: the output of the vision encoder, which the text pipeline holds, for a source image
GLANCE = f"{SOURCE}glance_"
TEXT = "embeds_"
#: patches on each side of a source image as the vision encoder sees it: 256 pixels in patches of 16
GLANCE_PATCHES = 16


class ZImageOmni(GroupedFamily, ZImage):
    """Time and sign are Z-Image's; source images pass as clean pictures, and once more as a vision encoder sees them.

    A prompt is several texts, the source images between them; so the empty prompt depends on how many there are.
    """

    name = "z_image_omni"
    title = "Z-Image-Omni"
    pipeline_class = "ZImageOmniPipeline"
    default_components = "Tongyi-MAI/Z-Image-Omni-Base"
    comfyui_file = ""
    # nothing but diffusers has layers for what the vision encoder sees, so their native names are diffusers' own
    blocks = {**ZImage.blocks, "siglip_refiner": Blocks("siglip_refiner", 2, {name: name for name in REFINER})}  # noqa: RUF012
    outer = {**ZImage.outer, "siglip_embedder.1": "siglip_embedder.1"}  # noqa: RUF012
    sizes = (Published("Z-Image-Omni", 3840, {**ZImage.sizes[0].depths, "siglip_refiner": 2}),)
    checkpoint_marks = ("siglip_pad_token",)
    other_marks = ()
    max_sources = 8
    text_sees_sources = True
    grouped_by = SOURCE
    text_parts = (*ZImage.text_parts, "siglip", "siglip_processor")

    def encode_prompts(
        self, pipeline: Any, prompts: list[str], sources: Sequence[Sources] | None = None
    ) -> list[PromptTensors]:
        items = []
        for prompt, own in zip(prompts, sources or [Sources((), (0, 0))] * len(prompts), strict=True):
            texts, _ = pipeline.encode_prompt(
                [prompt], do_classifier_free_guidance=False, num_condition_images=len(own.images)
            )
            item = {f"{TEXT}{i}": text for i, text in enumerate(texts[0])}
            if own.images:
                seen = [self._scaled(image, own.drawn) for image in own.images]
                device = pipeline._execution_device
                glances = pipeline.prepare_siglip_embeds(seen, batch_size=1, device=device, dtype=torch.float32)[0]
                item |= {f"{GLANCE}{i}": glance for i, glance in enumerate(glances)}
            items.append({name: tensor.detach().cpu().contiguous() for name, tensor in item.items()})
        return items

    def text_shapes(self, transformer_config: Mapping, tokens: int, sources: int) -> dict[str, tuple[int, ...]]:
        # with source images the texts between them are a few tokens each, and the longest has the prompt
        lengths = [tokens, *[BLOCK] * (sources + 1 if sources else 0)]
        texts = {f"{TEXT}{i}": (length, transformer_config["cap_feat_dim"]) for i, length in enumerate(lengths)}
        seen = (GLANCE_PATCHES, GLANCE_PATCHES, transformer_config.get("siglip_feat_dim") or 0)
        return {**texts, **{f"{GLANCE}{i}": seen for i in range(sources)}}

    def text_length(self, pipeline: Any, prompt: str) -> int:
        chat = f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"
        return len(pipeline.tokenizer(chat, verbose=False).input_ids)

    def text_room(self, pipeline: Any, transformer_config: Mapping, sources: int = 0) -> int:
        # with source images the texts between them are a few tokens each, and the longest has the prompt
        lengths = [1] * (sources + 2) if sources else [1]
        return min(self.longest_text, room_in_places(lengths, transformer_config["axes_lens"][0]))

    def _velocity(
        self, transformer: torch.nn.Module, z_BCHW: torch.Tensor, sigma_B: torch.Tensor, items: Sequence[PromptTensors]
    ) -> torch.Tensor:
        """The velocity of samples whose source images have the same sizes."""
        dtype = transformer.x_pad_token.dtype
        pictures, texts, glances = [], [], []
        for z_CHW, item in zip(z_BCHW, items, strict=True):
            pictures.append([picture.to(dtype).unsqueeze(1) for picture in (*numbered(item, SOURCE), z_CHW)])
            own = [text.to(dtype) for text in numbered(item, TEXT)]
            texts.append(within_places(own, transformer.config.axes_lens[0]))
            seen = [glance.to(dtype) for glance in numbered(item, GLANCE)]
            glances.append([*seen, None] if seen else None)
        out = transformer(
            pictures,
            (1000 - sigma_B * 1000) / 1000,  # the pipeline's own arithmetic
            texts,
            siglip_feats=glances,
            image_noise_mask=[[0] * (len(row) - 1) + [1] for row in pictures],
            return_dict=False,
        )[0]
        return -torch.stack([o.float() for o in out]).squeeze(2)

    def scaled_area(self, size: Size, drawn: Size) -> int | None:
        """As in the pipeline: an image above a million pixels gets as many as are drawn, whether fewer or more."""
        return drawn[0] * drawn[1] if size[0] * size[1] > SOURCE_AREA else None

    def _scaled(self, image: Image.Image, drawn: Size) -> Image.Image:
        check_source(image, self.title)
        image, area = image.convert("RGB"), self.scaled_area(image.size, drawn)
        return image if area is None else image.resize(scaled_to(image.size, area), Image.Resampling.LANCZOS)

    def source_picture(self, image: Image.Image, vae_scale_factor: int, drawn: Size) -> Image.Image:
        image = self._scaled(image, drawn)
        return middle(image, floor_to(image.size, 2 * vae_scale_factor))

"""Z-Image's editing variant (Omni) through diffusers: source images stand between the parts of the prompt.

Shape suffixes: B samples, C latent channels, H and W latent height and width.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from PIL import Image

from danceopd_ext.models.conditions import SOURCE, PromptTensors, TextConditions, numbered
from danceopd_ext.models.family import Images
from danceopd_ext.models.flux_2 import check_source
from danceopd_ext.models.packing import in_groups
from danceopd_ext.models.resizing import SOURCE_AREA, floor_to, middle, shrunk
from danceopd_ext.models.z_image import ZImage

#: what a vision encoder, which the text pipeline holds, sees of a source image
GLANCE = f"{SOURCE}glance_"
TEXT = "embeds_"


class ZImageOmni(ZImage):
    """Time and sign are Z-Image's; source images pass as clean pictures, and once more as a vision encoder sees them.

    A prompt is several texts, the source images between them; so the empty prompt depends on how many there are.
    """

    name = "z_image_omni"
    title = "Z-Image-Omni"
    pipeline_class = "ZImageOmniPipeline"
    default_components = "Tongyi-MAI/Z-Image-Omni-Base"
    checkpoint_marks = ("siglip_pad_token",)
    max_sources = 8
    text_sees_sources = True

    def encode_prompts(
        self, pipeline: Any, prompts: list[str], sources: Sequence[Images] | None = None
    ) -> list[PromptTensors]:
        items = []
        for prompt, images in zip(prompts, sources or [()] * len(prompts), strict=True):
            texts, _ = pipeline.encode_prompt(
                [prompt], do_classifier_free_guidance=False, num_condition_images=len(images)
            )
            item = {f"{TEXT}{i}": text for i, text in enumerate(texts[0])}
            if images:
                seen = [self._shrunk(image) for image in images]
                device = pipeline._execution_device
                glances = pipeline.prepare_siglip_embeds(seen, batch_size=1, device=device, dtype=torch.float32)[0]
                item |= {f"{GLANCE}{i}": glance for i, glance in enumerate(glances)}
            items.append({name: tensor.detach().cpu().contiguous() for name, tensor in item.items()})
        return items

    def velocity(
        self, transformer: torch.nn.Module, z_BCHW: torch.Tensor, sigma_B: torch.Tensor, condition: TextConditions
    ) -> torch.Tensor:
        return in_groups(partial(self._velocity, transformer), z_BCHW, sigma_B, condition, SOURCE)

    def _velocity(
        self, transformer: torch.nn.Module, z_BCHW: torch.Tensor, sigma_B: torch.Tensor, items: Sequence[PromptTensors]
    ) -> torch.Tensor:
        """The velocity of samples whose source images have the same sizes."""
        dtype = transformer.x_pad_token.dtype
        pictures, texts, glances = [], [], []
        for z_CHW, item in zip(z_BCHW, items, strict=True):
            pictures.append([picture.to(dtype).unsqueeze(1) for picture in (*numbered(item, SOURCE), z_CHW)])
            texts.append([text.to(dtype) for text in numbered(item, TEXT)])
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

    def _shrunk(self, image: Image.Image) -> Image.Image:
        check_source(image, self.title)
        return shrunk(image.convert("RGB"), SOURCE_AREA)

    def source_picture(self, image: Image.Image, vae_scale_factor: int) -> Image.Image:
        image = self._shrunk(image)
        return middle(image, floor_to(image.size, 2 * vae_scale_factor))

"""Makes the untrained parts of a demo pipeline that also edits: Z-Image's editing variant, as small as possible.

Z-Image-Omni is the only family here whose texts have their own length, whose pictures keep their size, and that draws
without a source as well: the others lengthen each text to 512 tokens or each source to a megapixel.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, ZImageOmniPipeline
from transformers import PreTrainedTokenizerFast, Siglip2VisionConfig, Siglip2VisionModel

from danceopd_ext.demo.benchmark_words import NEW_WORDS
from danceopd_ext.demo.pretrain.pipeline import (
    build_text_encoder,
    build_tokenizer,
    build_transformer,
    save_pipeline,
    vocabulary,
)

#: what stands before and after a source image in a prompt
VISION_WORDS = ("<|vision_start|>", "<|vision_end|>")
VISION_DIM = 16
#: the vision encoder sees a picture of 64 pixels as 4 x 4 patches
VISION_PATCH, VISION_PATCHES = 16, 16


def omni_vocabulary() -> list[str]:
    """The words of all captions and instructions, and what marks a source image."""
    return [*vocabulary(), *NEW_WORDS, *VISION_WORDS]


def build_omni_tokenizer() -> PreTrainedTokenizerFast:
    """Return the tokenizer of the model that edits: it also knows the words around an image."""
    return build_tokenizer(omni_vocabulary(), special=("<|im_start|>", *VISION_WORDS))


def build_vision_encoder(seed: int = 0) -> Siglip2VisionModel:
    """Frozen at its random start, and nearly nothing: what is to be seen of a source is in its latents."""
    torch.manual_seed(seed)
    config = Siglip2VisionConfig(
        hidden_size=VISION_DIM,
        intermediate_size=VISION_DIM,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_patches=VISION_PATCHES,
        patch_size=VISION_PATCH,
    )
    return Siglip2VisionModel(config).eval().requires_grad_(False)


def build_omni(vae: AutoencoderKL, dim: int = 72, layers: int = 4, seed: int = 0) -> ZImageOmniPipeline:
    """A pipeline around a trained VAE of 64-pixel pictures, with an untrained transformer."""
    from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil  # no torchvision

    transformer = build_transformer(vae.config.latent_channels, dim, layers, seed, siglip_feat_dim=VISION_DIM)
    with torch.no_grad():
        transformer.siglip_pad_token.normal_(std=0.5)
    return ZImageOmniPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=1.0),
        vae=vae,
        text_encoder=build_text_encoder(seed, omni_vocabulary()),
        tokenizer=build_omni_tokenizer(),
        transformer=transformer,
        siglip=build_vision_encoder(seed),
        siglip_processor=Siglip2ImageProcessorPil(patch_size=VISION_PATCH, max_num_patches=VISION_PATCHES),
    )


def save_omni(pipeline: ZImageOmniPipeline, folder: Path) -> None:
    """`save_pipeline` with the tokenizer of `build_omni`."""
    save_pipeline(pipeline, folder, build_omni_tokenizer())


load_omni = partial(
    ZImageOmniPipeline.from_pretrained, local_files_only=True, use_safetensors=True, trust_remote_code=False
)

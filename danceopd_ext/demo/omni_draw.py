"""Draws and edits with the demo's editing pipeline, fast: 64-pixel pictures, read at the world's 32."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from diffusers import ZImageOmniPipeline
from PIL import Image

from danceopd_ext.demo.scene import IMAGE_SIZE
from danceopd_ext.engine import drawing
from danceopd_ext.method import guided, sample_noise
from danceopd_ext.models.conditions import edit_item
from danceopd_ext.models.decoding import decode
from danceopd_ext.models.family import PromptTensors, TextConditions
from danceopd_ext.models.registry import FAMILIES
from danceopd_ext.models.z_image_omni import GLANCE, TEXT

FAMILY = FAMILIES["z_image_omni"]
PICTURE_SIZE = 2 * IMAGE_SIZE
#: longer than any text of the world; the family's 512 would give the same, later
LONGEST_TEXT = 40
STEPS = 8


def doubled(pictures: np.ndarray) -> np.ndarray:
    """[N, 32, 32, 3] -> [N, 64, 64, 3]: each pixel as 2 x 2."""
    return pictures.repeat(2, axis=1).repeat(2, axis=2)


def halved(pictures: np.ndarray) -> np.ndarray:
    """uint8 [N, 64, 64, 3] -> [N, 32, 32, 3]: the mean of each 2 x 2."""
    count, height, width, channels = pictures.shape
    squares = pictures.reshape(count, height // 2, 2, width // 2, 2, channels).astype(np.float32)
    return squares.mean(axis=(2, 4)).round().astype(np.uint8)


@torch.no_grad()
def encode_texts(pipeline: ZImageOmniPipeline, texts: Iterable[str], images: int = 0) -> list[PromptTensors]:
    """What the family's encoder gives for prompts with this many source images, without what is seen of these."""
    texts = list(texts)
    unique = sorted(set(texts))
    table: dict[str, PromptTensors] = {}
    for start in range(0, len(unique), 64):
        part = unique[start : start + 64]
        found, _ = pipeline.encode_prompt(
            list(part),
            do_classifier_free_guidance=False,
            num_condition_images=images,
            max_sequence_length=LONGEST_TEXT,
        )
        for text, pieces in zip(part, found, strict=True):
            table[text] = {f"{TEXT}{i}": piece.contiguous() for i, piece in enumerate(pieces)}
    return [table[text] for text in texts]


@torch.no_grad()
def encode_latents(pipeline: ZImageOmniPipeline, pictures: np.ndarray) -> torch.Tensor:
    """uint8 [N, 32, 32, 3] to latents of their doubles: float32 [N, c, h, w]."""
    vae, parts = pipeline.vae, []
    for start in range(0, len(pictures), 64):
        pixels = torch.from_numpy(doubled(pictures[start : start + 64])).permute(0, 3, 1, 2).to(vae.dtype) / 127.5 - 1
        parts.append(vae.encode(pixels).latent_dist.mean)
    return (torch.cat(parts).float() - vae.config.shift_factor) * vae.config.scaling_factor


@torch.no_grad()
def encode_glances(pipeline: ZImageOmniPipeline, pictures: np.ndarray) -> list[torch.Tensor]:
    """What the vision encoder sees of sources, uint8 [N, 32, 32, 3]: float32 [rows, columns, dim] each."""
    images = [Image.fromarray(picture) for picture in doubled(pictures)]
    return pipeline.prepare_siglip_embeds(images, batch_size=1, device=pipeline.vae.device, dtype=torch.float32)[0]


def encode_edits(pipeline: ZImageOmniPipeline, instructions: Sequence[str], sources: np.ndarray) -> list[PromptTensors]:
    """The conditions of edits, as the native trainer makes them; sources uint8 [N, 32, 32, 3]."""
    texts = encode_texts(pipeline, instructions, images=1)
    blank = encode_texts(pipeline, [""], images=1)[0]
    latents, glances = encode_latents(pipeline, sources), encode_glances(pipeline, sources)
    return [
        edit_item(text, {"source_0": latent, f"{GLANCE}0": glance}, blank)
        for text, latent, glance in zip(texts, latents, glances, strict=True)
    ]


@contextmanager
def evaluating(module: torch.nn.Module) -> Iterator[None]:
    """Keep the module in eval mode inside the block; restore its mode afterwards."""
    was_training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(was_training)


@torch.no_grad()
def draw(
    pipeline: ZImageOmniPipeline,
    items: Sequence[PromptTensors],
    seed: int = 0,
    steps: int = STEPS,
    guidance_scale: float = 1.0,
    batch: int = 64,
) -> np.ndarray:
    """Draws every condition: uint8 [N, 32, 32, 3]; noise is drawn per picture from (seed, place)."""
    transformer, config = pipeline.transformer, pipeline.transformer.config
    shape = FAMILY.latent_shape(config, pipeline.vae_scale_factor, PICTURE_SIZE, PICTURE_SIZE)
    sigmas = FAMILY.sigmas(pipeline.scheduler, config, steps, shape[1:])
    empty = encode_texts(pipeline, [""])[0]

    def velocity(latents: torch.Tensor, sigma: torch.Tensor, condition: TextConditions) -> torch.Tensor:
        return FAMILY.velocity(transformer, latents, sigma, condition)

    images = []
    with evaluating(transformer):
        for start in range(0, len(items), batch):
            condition = TextConditions(list(items[start : start + batch]), empty)
            noise = sample_noise(seed, 0, list(range(start, start + len(condition))), shape)
            field = guided(velocity, guidance_scale)
            images.append(halved(drawing.draw(field, pipeline.vae, noise, sigmas, condition, decode)))
    return np.concatenate(images)

"""Draws prompts with a pipeline, fast, and scores the drawings by the world's exact checks."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import numpy as np
import torch
from diffusers import ZImagePipeline

from danceopd_ext.method import guided, rollout, sample_noise
from danceopd_ext.models.decoding import decode
from danceopd_ext.models.family import PromptTensors, TextConditions
from danceopd_ext.models.registry import FAMILIES

from .world import IMAGE_SIZE, SKILLS, Scene, read_scenes, shows

FAMILY = FAMILIES["z_image"]
STEPS = 8


@contextmanager
def evaluating(module: torch.nn.Module) -> Iterator[None]:
    was_training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(was_training)


@torch.no_grad()
def encode_captions(pipeline: ZImagePipeline, captions: Sequence[str]) -> list[PromptTensors]:
    """What the family's encoder gives for each caption; equal captions are encoded once."""
    unique = sorted(set(captions))
    table = dict(zip(unique, FAMILY.encode_prompts(pipeline, unique), strict=True))
    return [table[text] for text in captions]


@torch.no_grad()
def generate(
    pipeline: ZImagePipeline,
    captions: Sequence[str],
    seed: int = 0,
    steps: int = STEPS,
    guidance_scale: float = 1.0,
    batch: int = 64,
) -> np.ndarray:
    """Draws every caption: uint8 [N, 32, 32, 3], the same as the pipeline would draw from the same noise.

    Noise is drawn per picture from (seed, place), so the batch size changes nothing. `guidance_scale` 1 is none.
    """
    transformer, config = pipeline.transformer, pipeline.transformer.config
    shape = FAMILY.latent_shape(config, pipeline.vae_scale_factor, IMAGE_SIZE, IMAGE_SIZE)
    sigmas = FAMILY.sigmas(pipeline.scheduler, config, steps, shape[1:])
    texts, empty = encode_captions(pipeline, captions), encode_captions(pipeline, [""])[0]

    def velocity(latents: torch.Tensor, sigma: torch.Tensor, condition: TextConditions) -> torch.Tensor:
        return FAMILY.velocity(transformer, latents, sigma, condition)

    images = []
    with evaluating(transformer):
        for start in range(0, len(captions), batch):
            condition = TextConditions(texts[start : start + batch], empty)
            noise = sample_noise(seed, 0, list(range(start, start + len(condition))), shape)
            end = torch.full((len(condition), 1), steps)
            latents = rollout(guided(velocity, guidance_scale), noise, sigmas, condition, end)[:, 0]
            images.append(decode(pipeline.vae, latents))
    return np.concatenate(images)


@torch.no_grad()
def encode_images(pipeline: ZImagePipeline, images: np.ndarray) -> torch.Tensor:
    """uint8 [N, 32, 32, 3] to latents as the transformer sees them: float32 [N, c, h, w]."""
    vae = pipeline.vae
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).to(vae.device, vae.dtype) / 127.5 - 1
    means = torch.cat([vae.encode(part).latent_dist.mean for part in pixels.split(128)])
    return (means.float() - vae.config.shift_factor) * vae.config.scaling_factor


def pick_prompts(
    skill: str, split: Literal["train", "test"] = "test", limit: int | None = None
) -> list[tuple[str, Scene]]:
    """Up to `limit` (caption, scene) pairs of a skill, spread evenly over its list; repeated if it is shorter."""
    pairs = SKILLS[skill].prompts(split)
    if limit is None:
        return pairs
    return [pairs[index * len(pairs) // limit % len(pairs)] for index in range(limit)]


def draw_and_check(
    pipeline: ZImagePipeline, pairs: Sequence[tuple[str, Scene]], **options
) -> tuple[np.ndarray, list[bool]]:
    """Draws (caption, scene) pairs: uint8 [N, 32, 32, 3], and whether each shows its scene; `options` as `generate`."""
    images = generate(pipeline, [text for text, _ in pairs], **options)
    reads = read_scenes(images)
    return images, [shows(read, error, scene) for (read, error), (_, scene) in zip(reads, pairs, strict=True)]


def score(
    pipeline: ZImagePipeline,
    skills: Sequence[str] = tuple(SKILLS),
    split: Literal["train", "test"] = "test",
    limit: int | None = None,
    **options,
) -> dict[str, float]:
    """The fraction of right drawings, 0..1, per skill, of `limit` prompts each (None: all). Options: see `generate`."""
    return {
        name: float(np.mean(draw_and_check(pipeline, pick_prompts(name, split, limit), **options)[1]))
        for name in skills
    }

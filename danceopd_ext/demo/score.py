"""Draws prompts with a pipeline, fast, and scores the drawings by the world's exact checks."""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import numpy as np
import torch
from diffusers import ZImagePipeline

from .world import IMAGE_SIZE, SKILLS, Scene, read_scenes, shows

STEPS = 8
MAX_PROMPT_TOKENS = 64


@contextmanager
def _evaluating(module: torch.nn.Module) -> Iterator[None]:
    was_training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(was_training)


@torch.no_grad()
def encode_captions(pipeline: ZImagePipeline, captions: Sequence[str]) -> list[torch.Tensor]:
    """One float32 [tokens, features] per caption; equal captions are encoded once."""
    unique = sorted(set(captions))
    encoded = pipeline.encode_prompt(
        list(unique), do_classifier_free_guidance=False, max_sequence_length=MAX_PROMPT_TOKENS
    )[0]
    table = dict(zip(unique, encoded, strict=True))
    return [table[text] for text in captions]


def sigma_grid(pipeline: ZImagePipeline, steps: int) -> torch.Tensor:
    """The noise levels of the pipeline's own sampler: float32 [steps + 1], from 1 to 0."""
    scheduler = pipeline.scheduler
    scheduler.set_timesteps(sigmas=torch.linspace(1.0, 1 / steps, steps).tolist(), device="cpu", mu=0.5)
    return scheduler.sigmas.clone()


def draw_noise(shape: Sequence[int], seed: int, indices: Sequence[int]) -> torch.Tensor:
    """float32 [len(indices), *shape]; row i depends on (seed, indices[i]) alone, so batch size changes nothing."""
    rows = []
    for index in indices:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + index)
        rows.append(torch.randn(*shape, generator=generator))
    return torch.stack(rows)


def predict_velocity(
    transformer: torch.nn.Module, latents: torch.Tensor, sigma: torch.Tensor, embeddings: Sequence[torch.Tensor]
) -> torch.Tensor:
    """d latents / d sigma = noise - clean, for latents [N, c, h, w] and noise levels sigma [N] in 0..1."""
    dtype = next(transformer.parameters()).dtype
    inputs = list(latents.to(dtype).unsqueeze(2).unbind(0))
    output = transformer(inputs, 1 - sigma, [row.to(dtype) for row in embeddings], return_dict=False)[0]
    return -torch.stack(output).squeeze(2).float()  # Z-Image's time runs from noise (0) to clean (1)


@torch.no_grad()
def generate(
    pipeline: ZImagePipeline,
    captions: Sequence[str],
    seed: int = 0,
    steps: int = STEPS,
    guidance_scale: float = 0.0,
    batch: int = 64,
    transformer: torch.nn.Module | None = None,
) -> np.ndarray:
    """Draws every caption: uint8 [N, 32, 32, 3], the same as the pipeline would draw from the same noise.

    `guidance_scale` is the pipeline's: velocity = v + scale * (v - v_empty), so 0 is none.
    `transformer` replaces the pipeline's own, if given.
    """
    transformer = pipeline.transformer if transformer is None else transformer
    device = next(transformer.parameters()).device
    sigmas = sigma_grid(pipeline, steps).to(device)
    embeddings = [row.to(device) for row in encode_captions(pipeline, captions)]
    empty = encode_captions(pipeline, [""])[0].to(device)
    side = IMAGE_SIZE // pipeline.vae_scale_factor
    shape = (pipeline.vae.config.latent_channels, side, side)
    images = []
    with _evaluating(transformer):
        for start in range(0, len(captions), batch):
            chunk = embeddings[start : start + batch]
            latents = draw_noise(shape, seed, range(start, start + len(chunk))).to(device)
            for sigma, following in itertools.pairwise(sigmas):
                level = sigma.expand(len(chunk))
                velocity = predict_velocity(transformer, latents, level, chunk)
                if guidance_scale > 0:
                    unguided = predict_velocity(transformer, latents, level, [empty] * len(chunk))
                    velocity = velocity + guidance_scale * (velocity - unguided)
                latents = latents + (following - sigma) * velocity
            images.append(decode(pipeline, latents))
    return np.concatenate(images)


@torch.no_grad()
def decode(pipeline: ZImagePipeline, latents: torch.Tensor) -> np.ndarray:
    """Latents [N, c, h, w] to uint8 [N, 32, 32, 3]."""
    vae = pipeline.vae
    latents = latents.to(vae.device, vae.dtype) / vae.config.scaling_factor + vae.config.shift_factor
    pixels = vae.decode(latents, return_dict=False)[0].float().clamp(-1, 1)
    return ((pixels + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()


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

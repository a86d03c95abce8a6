"""Flow matching in latent space, for the base (all weights) and for a teacher (a LoRA on the base)."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import ZImagePipeline
from tqdm import trange

from danceopd_ext.models.family import PromptTensors, TextConditions

from ..score import FAMILY, encode_captions, encode_images
from ..world import SKILLS, caption, render

LORA_TARGETS = list(FAMILY.lora_targets)


@dataclass(frozen=True)
class Examples:
    """Everything a step needs, encoded once: the set of scenes is finite."""

    latents: torch.Tensor
    """float32 [scenes, c, h, w]"""
    embeddings: list[PromptTensors]
    """the encoded caption of each scene"""
    empty: PromptTensors
    """the encoded empty caption"""


def encode_skills(pipeline: ZImagePipeline, skills: Iterable[str], split: str | None = None) -> Examples:
    """All scenes of the skills, or those of one split."""
    scenes = []
    for name in skills:
        scenes += SKILLS[name].scenes if split is None else [scene for _, scene in SKILLS[name].prompts(split)]
    return Examples(
        latents=encode_images(pipeline, np.stack([render(scene) for scene in scenes])),
        embeddings=encode_captions(pipeline, [caption(scene) for scene in scenes]),
        empty=encode_captions(pipeline, [""])[0],
    )


def flow_loss(
    transformer: torch.nn.Module, examples: Examples, batch: int, generator: torch.Generator, dropout: float
) -> torch.Tensor:
    """Mean squared velocity error of one random batch; a fraction `dropout` of it has the empty caption."""
    index = torch.randint(len(examples.embeddings), (batch,), generator=generator)
    clean = examples.latents[index]
    noise = torch.randn(clean.shape, generator=generator)
    # Stratified over 0..1, so that every batch sees all noise levels.
    sigma = (torch.randperm(batch, generator=generator) + torch.rand(batch, generator=generator)) / batch
    blank = torch.rand(batch, generator=generator) < dropout
    words = [examples.empty if gone else examples.embeddings[i] for i, gone in zip(index, blank, strict=True)]
    level = sigma.view(-1, 1, 1, 1)
    condition = TextConditions(words, examples.empty)
    velocity = FAMILY.velocity(transformer, (1 - level) * clean + level * noise, sigma, condition)
    return F.mse_loss(velocity, noise - clean)


def train_flow(
    transformer: torch.nn.Module,
    examples: Examples,
    steps: int,
    batch: int = 48,
    learning_rate: float = 2e-3,
    weight_decay: float = 0.01,
    dropout: float = 0.1,
    seed: int = 0,
    name: str = "base",
    every: int = 500,
    on_checkpoint: Callable[[int], str] | None = None,
) -> list[float]:
    """Trains the weights that require gradients, with one warm-up and a decay to zero; returns all losses.

    `on_checkpoint(step)` is called now and then; what it returns is printed.
    """
    generator = torch.Generator().manual_seed(seed)
    weights = [weight for weight in transformer.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=learning_rate, weight_decay=weight_decay, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps, pct_start=0.1)
    transformer.train()
    losses: list[float] = []
    bar = trange(steps, desc=name, mininterval=2)
    for step in bar:
        loss = flow_loss(transformer, examples, batch, generator, dropout)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if step % 20 == 0:
            bar.set_postfix(loss=f"{np.mean(losses[-100:]):.4f}", refresh=False)
        if on_checkpoint and ((step + 1) % every == 0 or step + 1 == steps):
            bar.write(f"{name} step {step + 1}: loss {np.mean(losses[-200:]):.4f}  {on_checkpoint(step + 1)}")
    transformer.eval()
    return losses

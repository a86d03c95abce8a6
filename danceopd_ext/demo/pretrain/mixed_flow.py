"""Trains by flow matching on a mixture of drawings and edits, for the base (all weights) and for a teacher."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import trange

from danceopd_ext.demo.omni_draw import FAMILY
from danceopd_ext.demo.pretrain.pools import Pool
from danceopd_ext.files import whole_file
from danceopd_ext.models.family import TextConditions


@dataclass(frozen=True)
class Share:
    """What a step draws from one pool."""

    pool: Pool
    count: int
    """examples a step"""
    unedited: float = 0.0
    """the fraction of edits whose target is the source as it was: labels so weak that a model does not learn to edit,
    only to keep, while it meets instructions and what they do"""


def share_loss(transformer: torch.nn.Module, share: Share, generator: torch.Generator, dropout: float) -> torch.Tensor:
    """Mean squared velocity error of random examples; a fraction `dropout` of them has the empty prompt."""
    pool, count = share.pool, share.count
    index = torch.randint(len(pool), (count,), generator=generator)
    clean = pool.targets[index]
    if pool.sources is not None and share.unedited:
        kept = torch.rand(count, generator=generator) < share.unedited
        clean = torch.where(kept.view(-1, 1, 1, 1), pool.sources[index], clean)
    noise = torch.randn(clean.shape, generator=generator)
    # Stratified over 0..1, so that every batch sees all noise levels.
    sigma = (torch.randperm(count, generator=generator) + torch.rand(count, generator=generator)) / count
    blank = (torch.rand(count, generator=generator) < dropout).tolist()
    items = [pool.condition(i, gone) for i, gone in zip(index.tolist(), blank, strict=True)]
    level = sigma.view(-1, 1, 1, 1)
    velocity = FAMILY.velocity(
        transformer, (1 - level) * clean + level * noise, sigma, TextConditions(items, pool.blank)
    )
    return (velocity - (noise - clean)).square().mean()


def train_mixed(
    transformer: torch.nn.Module,
    shares: Sequence[Share],
    steps: int,
    learning_rate: float = 2e-3,
    weight_decay: float = 0.01,
    dropout: float = 0.1,
    seed: int = 0,
    name: str = "base",
    every: int = 500,
    on_checkpoint: Callable[[int], str] | None = None,
    unfinished: Path | None = None,
) -> list[list[float]]:
    """Trains the weights that require gradients; the losses per step (from where it resumed) and share.

    The rate warms up over a twentieth of the steps (100 at most), stays, and falls to zero over the last quarter.
    Shares count by their examples. `on_checkpoint(step)` is called now and then; what it returns is printed.
    `unfinished`: a file that is written then, and with which a run that was stopped goes on as if it had not been;
    `steps` may be another number then.
    """
    generator = torch.Generator().manual_seed(seed)
    weights = {key: weight for key, weight in transformer.named_parameters() if weight.requires_grad}
    optimizer = torch.optim.AdamW(weights.values(), lr=learning_rate, weight_decay=weight_decay, betas=(0.9, 0.98))
    first = _resume(unfinished, weights, optimizer, generator) if unfinished and unfinished.exists() else 0
    total = sum(share.count for share in shares)
    transformer.train()
    losses: list[list[float]] = []
    bar = trange(first, steps, desc=name, mininterval=5, initial=first, total=steps)
    for step in bar:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * _rate(step, steps)
        optimizer.zero_grad(set_to_none=True)
        row = []
        for share in shares:
            loss = share_loss(transformer, share, generator, dropout)
            (loss * share.count / total).backward()
            row.append(loss.item())
        torch.nn.utils.clip_grad_norm_(weights.values(), 1.0)
        optimizer.step()
        losses.append(row)
        if step % 20 == 0:
            bar.set_postfix(loss=_mean(losses[-100:]), refresh=False)
        if (step + 1) % every == 0 or step + 1 == steps:
            if unfinished:
                _keep(unfinished, step + 1, weights, optimizer, generator)
            told = on_checkpoint(step + 1) if on_checkpoint else ""
            bar.write(f"{name} step {step + 1}: loss {_mean(losses[-200:])}  {told}")
            transformer.train()
    transformer.eval()
    return losses


def _rate(step: int, steps: int) -> float:
    """The learning rate of step 0..steps - 1, as a part of the highest."""
    rising = (step + 1) / max(1, min(100, steps // 20))
    falling = (steps - step) / max(1, steps // 4)
    return min(1.0, rising, falling)


def _keep(file: Path, step: int, weights: dict, optimizer: torch.optim.Optimizer, generator: torch.Generator) -> None:
    state = {
        "step": step,
        "weights": {key: weight.detach() for key, weight in weights.items()},
        "optimizer": optimizer.state_dict(),
        "generator": generator.get_state(),
    }
    with whole_file(file) as part:
        torch.save(state, part)


def _resume(file: Path, weights: dict, optimizer: torch.optim.Optimizer, generator: torch.Generator) -> int:
    state = torch.load(file, weights_only=True)
    with torch.no_grad():
        for key, weight in weights.items():
            weight.copy_(state["weights"][key])
    optimizer.load_state_dict(state["optimizer"])
    generator.set_state(state["generator"])
    return state["step"]


def _mean(losses: Sequence[Sequence[float]]) -> str:
    return " ".join(f"{value:.4f}" for value in np.mean(losses, axis=0))

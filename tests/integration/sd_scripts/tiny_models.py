"""What the tiny models of all architectures share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch

from danceopd_ext.toolkits.hosted.adapter import Adapter

Texts = list[torch.Tensor | None]


def randomise(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Give every weight a value (the classes start with zeros, which answer everything alike), of unit gain."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            noise = torch.randn(weight.shape, generator=rng)
            if weight.ndim > 1:
                weight.copy_(noise / weight[0].numel() ** 0.5)
            else:
                weight.add_(0.1 * noise)
    return model.requires_grad_(False)


@dataclass
class Architecture:
    """One architecture of the toolkit with a tiny random model, and how the toolkit itself uses that model.

    `predict(z, sigma, texts)`: what its trainer takes as the model's prediction, times `sign` to be dz/dsigma.
    `sample(noise, steps, texts, empty, scale)`: what its own sampler makes of the noise of one sample, as it samples
    pictures while training; guided where `scale` is not 1.
    """

    adapter: Adapter
    model: torch.nn.Module
    latent_shape: tuple[int, int, int]
    texts: Texts
    empty: Texts
    predict: Callable[[torch.Tensor, torch.Tensor, Texts], torch.Tensor]
    sample: Callable[..., torch.Tensor]
    sign: float = 1.0
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def count(self) -> int:
        return len(self.texts[0])

    def noise(self, seed: int = 1) -> torch.Tensor:
        return torch.randn(self.count, *self.latent_shape, generator=torch.Generator().manual_seed(seed))

    def condition(self, texts: Texts | None = None):
        texts = texts or self.texts
        return self.adapter.condition(texts, routes=["base"] * len(texts[0]), empty=self.empty)


def rows(texts: Texts, indices: list[int]) -> Texts:
    """The texts of some samples only."""
    return [None if entry is None else entry[indices] for entry in texts]


def trainer_arguments(**more) -> SimpleNamespace:
    """Arguments with which the toolkit's trainers give their raw prediction."""
    return SimpleNamespace(
        gradient_checkpointing=False, model_prediction_type="raw", weighting_scheme="none", timestep_sampling="uniform",
        **more,
    )  # fmt: skip


ACCELERATOR = SimpleNamespace(device=torch.device("cpu"), autocast=nullcontext)


@contextmanager
def noisy_input(module: Any, z: torch.Tensor, sigma: torch.Tensor) -> Iterator[None]:
    """Let the toolkit's trainer look at this state instead of one that it draws."""
    name = "get_noisy_model_input_and_timesteps"
    original = getattr(module, name)
    setattr(module, name, lambda *_: (z, sigma * 1000, sigma.view(-1, 1, 1, 1)))
    try:
        yield
    finally:
        setattr(module, name, original)

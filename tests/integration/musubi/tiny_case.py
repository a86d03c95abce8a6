"""A tiny random model of one architecture, beside musubi's own trainer and our adapter, in float32.

Shape suffixes: B samples, C channels, H and W latent height and width.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import torch

from danceopd_ext.toolkits.musubi.adapter import MusubiAdapter

ACCELERATOR = SimpleNamespace(device=torch.device("cpu"), autocast=contextlib.nullcontext)


@dataclass
class TinyCase:
    """`batch`: as musubi's data set gives it, of samples that differ in everything.

    `sample(noise_seed, steps, flow_shift)`: the latents [1, ...] that musubi's own sampler makes of the batch's first
    sample, and the noise that it began with.
    """

    adapter: MusubiAdapter
    transformer: torch.nn.Module
    network: ModuleType
    batch: dict[str, Any]
    latent_shape: tuple[int, ...]
    sample: Callable[[int, int, float | None], tuple[torch.Tensor, torch.Tensor]]
    control_keys: list[str] = field(default_factory=list)

    def rows(self, rows: list[int]) -> dict[str, Any]:
        """The batch of some of its samples."""
        return {k: [v[i] for i in rows] if isinstance(v, list) else v[rows] for k, v in self.batch.items()}


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class StandInVae:
    """Encodes to what it is told, in that order, and keeps what it is asked to decode."""

    dtype = torch.float32

    def __init__(self, encoded: list[torch.Tensor]):
        self.encoded, self.latents = list(encoded), None

    def to(self, *_args, **_kwargs) -> StandInVae:
        return self

    def eval(self) -> StandInVae:
        return self

    def encode(self, _pixels: torch.Tensor) -> torch.Tensor:
        return self.encoded.pop(0)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        self.latents = latents
        return torch.zeros(1, 3, 8, 8)

    encode_pixels_to_latents, decode_to_pixels = encode, decode


class _Float32Torch:
    """torch, where bfloat16 means float32."""

    bfloat16 = torch.float32

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


@contextlib.contextmanager
def without_rounding(*modules: ModuleType) -> Iterator[None]:
    """musubi's samplers round to bfloat16 wherever they can; inside, they calculate the same in float32."""
    for module in modules:
        module.torch = _Float32Torch()
    try:
        yield
    finally:
        for module in modules:
            module.torch = torch

"""Draws random numbers that depend on the sample and the step, not on the order of the draws.

All randomness of a sample comes from a generator seeded by (run seed, step, index of the sample in the whole batch). So
the result does not depend on micro-batches, on the number of processes, or on earlier draws: the state of every
generator is the run's seed and the step.
"""

from __future__ import annotations

import hashlib

import torch


def derive_seed(seed: int, *words: int | str) -> int:
    """Return a 63-bit seed for `words`; the same on every platform and Python version."""
    text = "/".join(repr(word) for word in (seed, *words))
    return int.from_bytes(hashlib.sha256(text.encode("utf-8")).digest()[:8], "big") & (2**63 - 1)


def generator(seed: int, *words: int | str) -> torch.Generator:
    """Return a CPU generator seeded by `derive_seed`; drawing on the CPU gives the same numbers on every device."""
    return torch.Generator("cpu").manual_seed(derive_seed(seed, *words))


def sample_noise(seed: int, step: int, indices: list[int], shape: tuple[int, ...], what: str = "noise") -> torch.Tensor:
    """Return standard normal noise [B, *shape] in float32, one sample of the step per entry of `indices`.

    `what`: names the purpose; noise for different purposes is independent.
    """
    return torch.stack([torch.randn(shape, generator=generator(seed, what, step, i)) for i in indices])

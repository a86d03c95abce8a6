"""Random numbers that belong to a thing, not to a moment.

Everything random about a sample is drawn from a generator seeded by (run seed, step, index of the sample in the whole
batch). So the result does not depend on micro-batches, on the number of processes, or on what ran before: the saved
state of every generator is the run's seed and the step.
"""

from __future__ import annotations

import hashlib

import torch


def derive_seed(seed: int, *words: int | str) -> int:
    """A 63-bit seed for the thing that `words` name; the same on every platform and Python version."""
    text = "/".join(repr(word) for word in (seed, *words))
    return int.from_bytes(hashlib.sha256(text.encode("utf-8")).digest()[:8], "big") & (2**63 - 1)


def generator(seed: int, *words: int | str) -> torch.Generator:
    """A CPU generator seeded by `derive_seed`; drawing on the CPU gives the same numbers on every device."""
    return torch.Generator("cpu").manual_seed(derive_seed(seed, *words))


def sample_noise(seed: int, step: int, indices: list[int], shape: tuple[int, ...], what: str = "noise") -> torch.Tensor:
    """Standard normal noise [B, *shape] in float32, one sample of the step per entry of `indices`.

    `what`: noise for another purpose is independent of it.
    """
    return torch.stack([torch.randn(shape, generator=generator(seed, what, step, i)) for i in indices])

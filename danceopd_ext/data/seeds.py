"""Derives everything random in the data from (seed, words), equal on every platform, process and Python version."""

from __future__ import annotations

import random

from danceopd_ext.method.randomness import derive_seed, generator

__all__ = ["derive", "python_rng", "torch_generator", "uniform"]

derive = derive_seed
torch_generator = generator


def python_rng(seed: int, *words: int | str) -> random.Random:
    """Return a Python generator that depends only on `seed` and `words`."""
    return random.Random(derive_seed(seed, *words))


def uniform(seed: int, *words: int | str) -> float:
    """Return one number in [0, 1) that depends only on `seed` and `words`; faster than a generator."""
    # 53 of the 63 bits fit a float exactly; more could round up to 1.
    return (derive_seed(seed, *words) >> 10) / 2**53

"""Trains a preset without the early stop: each rollout runs to its clean end, whatever state is asked about.

    python -m danceopd_ext.reproduce.full_rollout --config preset.toml

Only for the ablation that shows what the early stop saves: the states asked about are the same.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module

import torch

from danceopd_ext.cli import run
from danceopd_ext.method.fields import Field
from danceopd_ext.method.records import Batch, Method
from danceopd_ext.toolkits.run import main

_update = import_module("danceopd_ext.method.update")  # the package gives this name to the function
_early = _update.roll_out_in_chunks


def to_the_end(method: Method, field: Field, noise: torch.Tensor, batch: Batch, query_BK: torch.Tensor) -> torch.Tensor:
    """`update.roll_out_in_chunks` with the clean end as one more query, which is thrown away: states [B, K, ...]."""
    end_B1 = torch.full((len(query_BK), 1), method.rollout_steps)
    return _early(method, field, noise, batch, torch.cat([query_BK, end_B1], dim=1))[:, :-1]


@contextmanager
def full_rollouts() -> Iterator[None]:
    """Inside the block no rollout stops early."""
    _update.roll_out_in_chunks = to_the_end
    try:
        yield
    finally:
        _update.roll_out_in_chunks = _early


def train(arguments: Sequence[str] | None = None) -> None:
    """`train_danceopd.py` with full rollouts."""
    with full_rollouts():
        main(None if arguments is None else list(arguments))


if __name__ == "__main__":
    sys.exit(run(train))

"""Refuses steps that cannot fit into memory, and reports ranks that no layer can use."""

from __future__ import annotations

import math
from collections.abc import Sequence

import psutil
import torch

from danceopd_ext.config import Preset
from danceopd_ext.data.plan import Plan
from danceopd_ext.engine.model import Model
from danceopd_ext.errors import UserError
from danceopd_ext.models.layout import Layout

#: bytes per number of a latent: rollouts are float32
NUMBER = 4


def check_step(preset: Preset, data: Plan, model: Model) -> None:
    """Raise UserError if the latents of an optimizer step alone are larger than the device's whole memory.

    The model and everything else come on top, so a step that passes may still not fit.
    """
    samples = preset.training.gradient_accumulation_steps * max(
        item.batch_size or preset.training.train_batch_size for item in data.items()
    )
    shapes = [model.latent_shape(*size) for size in {item.size for item in data.items()}]
    needed = samples * states_of_a_sample(preset) * max(map(math.prod, shapes)) * NUMBER
    memory = memory_of(model.device)
    if needed > memory:
        raise UserError(
            f"the {samples:,} samples of a step have latents of {needed / 2**30:,.0f} GiB, and the memory of this "
            f"{'machine' if model.device.type == 'cpu' else 'GPU'} is {memory / 2**30:,.0f} GiB. Use a smaller "
            f"{_remedies(preset)}."
        )


def states_of_a_sample(preset: Preset) -> int:
    """Return how many latents a step holds per sample at the same time: noise, rollout states, teacher velocities."""
    options = preset.danceopd
    if options.method == "flowopd":
        return options.flowopd_group_size * (3 * options.rollout_steps + 1)
    queries = options.rollout_steps if options.method == "diffusionopd" else options.num_queries
    return 2 * queries + 1


def _remedies(preset: Preset) -> str:
    keys = ["train_batch_size", "gradient_accumulation_steps", "resolution"]
    if preset.danceopd.method == "flowopd":
        keys = ["flowopd_group_size", "rollout_steps", *keys]
    elif preset.danceopd.num_queries > 1:
        keys = ["num_queries", *keys]
    return f"{', '.join(keys[:-1])} or {keys[-1]}"


def memory_of(device: torch.device) -> int:
    """Return the device's total memory in bytes."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return psutil.virtual_memory().total


def rank_notes(rank: int, layers: Sequence[str], layout: Layout) -> list[str]:
    """Return a note on a rank above the smaller side of every trained layer: a lower one can hold every change."""
    useful = max(min(layout.shapes[layer]) for layer in layers)
    if rank <= useful:
        return []
    return [
        f"network_dim = {rank} is more than any trained layer can use: {useful}, the smaller side of the largest one, "
        "is enough for every change. A higher rank only costs memory and disk space"
    ]

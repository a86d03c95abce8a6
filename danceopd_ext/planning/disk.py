"""What a run writes to the disk, and downloads."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, prod

import torch

from danceopd_ext.engine.precision import torch_dtype
from danceopd_ext.planning.blueprint import bytes_of
from danceopd_ext.planning.phases import Memory


@dataclass(frozen=True)
class Disk:
    """Bytes that a run writes and downloads.

    `lora`: of a LoRA file, of which `loras` are kept at most; likewise states. `caches`: of encoded prompts and source
    images. `download`: of the model, 0 if it is here.
    """

    lora: int
    loras: int
    state: int
    states: int
    caches: int
    download: int

    @property
    def written(self) -> int:
        return self.lora * self.loras + self.state * self.states + self.caches


def disk_of(memory: Memory) -> Disk:
    """Return what the run writes and downloads."""
    work, saving = memory.work, memory.preset.saving
    lora = memory.numbers * torch_dtype(saving.save_precision).itemsize
    state = memory.numbers * 4 + memory.resident["optimizer"]
    condition = sum(prod(shape) for shape in memory.counts.inputs(work).condition.values())
    caches = work.texts * condition * work.dtype.itemsize
    if not work.trains:
        return Disk(lora, 1, 0, 0, 0, _download(memory))
    keeps_states = saving.save_last_n_steps_state or saving.save_last_n_steps
    loras = 1 + _kept(memory, saving.save_last_n_steps)
    states = (_kept(memory, keeps_states) if saving.save_state else 0) + (
        saving.save_state or saving.save_state_on_train_end
    )
    return Disk(lora, loras, state, states, caches, _download(memory))


def _kept(memory: Memory, last: int | None) -> int:
    """Return how many saves between steps are on the disk at the same time."""
    every, steps = memory.preset.saving.save_every_n_steps, memory.preset.training.max_train_steps
    if not every:
        return 0
    saves = ceil(steps / every) - 1
    return min(saves, last // every + 1) if last else saves


def _download(memory: Memory) -> int:
    """The files of the hub, which hold 16-bit numbers."""
    blueprint = memory.work.blueprint
    if not blueprint.downloads:
        return 0
    encoders = memory.counts.encoders(torch.bfloat16)
    return bytes_of(memory.counts.transformer, torch.bfloat16) + encoders + memory.counts.vae_weights(torch.bfloat16)

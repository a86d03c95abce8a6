"""Checks `blocks_to_swap` of a preset, and reports where it has no effect or costs more than it has to."""

from __future__ import annotations

from collections.abc import Iterator

from danceopd_ext.config import Preset
from danceopd_ext.config.schema import TrainingSection
from danceopd_ext.engine.model import Model
from danceopd_ext.errors import UserError


def check_swapped(training: TrainingSection) -> None:
    """Raise UserError for `blocks_to_swap` without gradient checkpointing, which brings blocks back for backward."""
    if training.blocks_to_swap and not training.gradient_checkpointing:
        raise UserError(
            f"blocks_to_swap = {training.blocks_to_swap} needs gradient_checkpointing: without it the gradient pass "
            "holds every block on the GPU. Set gradient_checkpointing = true."
        )


def swap_notes(preset: Preset, model: Model) -> Iterator[str]:
    """Yield notes on a swap that has no effect on this device, and on small rollouts that move the weights too often.

    Samples that roll out together share one pass of the weights.
    """
    swapped, training = model.blocks_to_swap, preset.training
    if not swapped:
        return
    if not model.swaps:
        yield (
            f"blocks_to_swap = {swapped} has no effect: a device of type {model.device.type} computes in main memory, "
            "where the whole model is"
        )
        return
    samples = training.train_batch_size * training.gradient_accumulation_steps
    together = preset.danceopd.rollout_batch_size
    if together and together < samples:
        yield (
            f"rollout_batch_size = {together} moves the swapped blocks {-(-samples // together)} times for each solver "
            f"step of the {samples} samples of a step. Leave it out if memory allows: all of them then share one pass"
        )

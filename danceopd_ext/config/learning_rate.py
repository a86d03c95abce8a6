"""Checks the learning rate and warm-up for native and hosted runs, also for optimizers that find their own rate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from danceopd_ext.errors import UserError

#: the default learning rate, and the default for an optimizer that multiplies it by the rate that it finds
LEARNING_RATE, OWN_RATE = 2e-4, 1.0
#: below this, such an optimizer learns almost nothing
LOWEST_OWN_RATE = 0.01


def finds_its_rate(optimizer_type: str) -> bool:
    """Return whether this optimizer estimates its step size itself: Prodigy or one of D-Adaptation's."""
    return optimizer_type.rpartition(".")[2].lower().startswith(("prodigy", "dadapt"))


def default_rate(optimizer_type: str) -> float:
    """Return the default learning rate of an optimizer of this name."""
    return OWN_RATE if finds_its_rate(optimizer_type) else LEARNING_RATE


def check_own_rate(optimizer_type: str, learning_rate: float, arguments: Mapping[str, Any]) -> None:
    """Raise UserError for a rate so small that an optimizer that finds its own learns nothing, unless `d0` is given."""
    if finds_its_rate(optimizer_type) and learning_rate < LOWEST_OWN_RATE and "d0" not in arguments:
        raise UserError(
            f"learning_rate = {learning_rate:g}: {optimizer_type} finds the rate itself and multiplies it by this "
            "value: "
            "the student would learn almost nothing. Remove learning_rate: its default here is 1."
        )


def check_warmup(lr_scheduler: str, lr_warmup_steps: float) -> None:
    """Raise UserError for a warm-up with the schedule that has none; sd-scripts and musubi-tuner refuse it too."""
    if lr_scheduler == "constant" and lr_warmup_steps:
        raise UserError(
            f'lr_warmup_steps = {lr_warmup_steps:g}: lr_scheduler = "constant" has no warm-up. Use lr_scheduler = '
            '"constant_with_warmup", or remove lr_warmup_steps.'
        )

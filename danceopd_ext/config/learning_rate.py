"""Checks of the learning rate that native and hosted runs share: optimizers that find their own rate, and warm-up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from danceopd_ext.errors import UserError

#: the learning rate by default, and the one of an optimizer that finds its rate and multiplies it by this
LEARNING_RATE, OWN_RATE = 2e-4, 1.0
#: a learning rate below this, multiplied by what such an optimizer finds, teaches next to nothing
LOWEST_OWN_RATE = 0.01


def finds_its_rate(optimizer_type: str) -> bool:
    """Whether this optimizer estimates the size of its steps itself: Prodigy or one of D-Adaptation's."""
    return optimizer_type.rpartition(".")[2].lower().startswith(("prodigy", "dadapt"))


def default_rate(optimizer_type: str) -> float:
    """The learning rate of an optimizer of this name where the user gives none."""
    return OWN_RATE if finds_its_rate(optimizer_type) else LEARNING_RATE


def check_own_rate(optimizer_type: str, learning_rate: float, arguments: Mapping[str, Any]) -> None:
    """Raise UserError for a rate with which an optimizer that finds its own learns nothing, unless `d0` is given."""
    if finds_its_rate(optimizer_type) and learning_rate < LOWEST_OWN_RATE and "d0" not in arguments:
        raise UserError(
            f"learning_rate = {learning_rate:g}: {optimizer_type} finds the rate itself and multiplies it by this "
            "value: "
            "the student would learn almost nothing. Remove learning_rate: its default here is 1."
        )


def check_warmup(lr_scheduler: str, lr_warmup_steps: float) -> None:
    """Raise UserError for a warm-up beside the schedule that has none; sd-scripts and musubi-tuner refuse it, too."""
    if lr_scheduler == "constant" and lr_warmup_steps:
        raise UserError(
            f'lr_warmup_steps = {lr_warmup_steps:g}: lr_scheduler = "constant" has no warm-up. Use lr_scheduler = '
            '"constant_with_warmup", or remove lr_warmup_steps.'
        )

"""Sets a toolkit's arguments that a preset leaves out to the defaults of a native preset."""

from __future__ import annotations

from typing import Any

from danceopd_ext.config.load import default_of

#: arguments that both toolkits share with a native preset, and whose own defaults do not fit the method
SHARED = (
    "network_dim", "learning_rate", "max_train_steps", "gradient_accumulation_steps", "mixed_precision", "seed",
    "output_dir", "output_name", "save_precision",
)  # fmt: skip
DEFAULTS: dict[str, Any] = {name: default_of(name) for name in SHARED}

#: optimizers whose weight decay is on by default; the paper trains without
_DECAYING = ("adamw", "lion")


def without_decay(optimizer_type: str) -> list[str] | None:
    """Return `optimizer_args` that turn off weight decay for optimizers of this name; None if it is already off."""
    return ["weight_decay=0"] if any(word in optimizer_type.lower() for word in _DECAYING) else None

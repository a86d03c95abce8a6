"""Numbers that both toolkits take as they are, and fail on in the middle of a run, or train nothing with."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path

from danceopd_ext.errors import UserError

#: argument -> (least, most) of its values; None: no limit
LIMITS: dict[str, tuple[float, float | None]] = {
    "train_batch_size": (1, None), "gradient_accumulation_steps": (1, None), "max_train_steps": (1, None),
    "max_train_epochs": (1, None), "network_dim": (1, None), "max_data_loader_n_workers": (0, None),
    "seed": (0, 2**32 - 1), "text_encoder_batch_size": (1, None), "vae_batch_size": (1, None),
    "t5xxl_max_token_length": (1, None), "gemma2_max_token_length": (1, None), "qwen3_max_token_length": (1, None),
    "t5_max_token_length": (1, None), "network_dropout": (0, 0.99), "max_grad_norm": (0, None),
    "save_every_n_steps": (1, None), "save_every_n_epochs": (1, None), "sample_every_n_steps": (1, None),
    "sample_every_n_epochs": (1, None), "save_n_epoch_ratio": (1, None), "save_last_n_steps": (0, None),
    "save_last_n_steps_state": (0, None), "save_last_n_epochs": (0, None), "save_last_n_epochs_state": (0, None),
    "validate_every_n_steps": (1, None), "validate_every_n_epochs": (1, None), "blocks_to_swap": (0, None),
}  # fmt: skip
#: arguments that must be more than 0
POSITIVE = ("learning_rate", "unet_lr", "network_alpha")
#: of these a 0 is what user interfaces write for "not set"
UNSET_BY_ZERO = (
    "max_train_epochs", "save_every_n_steps", "save_every_n_epochs", "sample_every_n_steps", "sample_every_n_epochs",
    "save_n_epoch_ratio", "validate_every_n_steps", "validate_every_n_epochs", "text_encoder_batch_size", "unet_lr",
)  # fmt: skip


def check_numbers(args: Namespace, given: Mapping[str, str], defaults: Mapping[str, object], preset: Path) -> None:
    """Check the given numbers, and put the toolkit's default where a 0 means that there is none.

    given: what the user wrote, by argument. Raises UserError that names key and range.
    """
    for name, written in given.items():
        value = getattr(args, name, None)
        if value == 0 and value is not False and name in UNSET_BY_ZERO:
            setattr(args, name, defaults.get(name))
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            continue
        if name in POSITIVE and not value > 0:
            raise UserError(f"{preset}: {written}: write a number above 0.")
        least, most = LIMITS.get(name, (None, None))
        if least is not None and not least <= value <= (value if most is None else most):
            limit = f"of at least {least:g}" if most is None else f"from {least:g} to {most:g}"
            raise UserError(f"{preset}: {written}: write a number {limit}.")

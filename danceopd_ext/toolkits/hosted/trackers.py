"""Checks that the tracker of a preset is installed; the toolkits notice it late or never."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from danceopd_ext.errors import UserError
from danceopd_ext.machine import installed


def check_trackers(args: Namespace) -> list[str]:
    """Return notes on log_with and logging_dir. Raises UserError if the toolkit would fail.

    accelerate silently leaves out a tracker whose package is missing.
    """
    asked = args.log_with or ("tensorboard" if args.logging_dir else None)
    log = Path(args.output_dir) / f"{args.output_name}.log.jsonl"
    if asked in ("tensorboard", "all") and not args.logging_dir:
        raise UserError(f'log_with = "{asked}" needs logging_dir. Name the folder for TensorBoard\'s logs.')
    if asked in ("wandb", "all") and not installed("wandb"):
        raise UserError(
            f'log_with = "{asked}": wandb is not installed in this Python environment. Install it (pip install wandb) '
            f"or remove log_with; {log} is written in any case."
        )
    if asked in ("tensorboard", "all") and not (installed("tensorboard") or installed("tensorboardX")):
        why = f'log_with = "{asked}"' if args.log_with else "logging_dir"
        return [
            f"note: {why}: TensorBoard is not installed in this Python environment (pip install tensorboard), so it "
            f"logs nothing. The log is {log}."
        ]
    return []

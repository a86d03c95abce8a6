"""Refuses a saved state that holds NaN, and names the file and the tensor."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from danceopd_ext.errors import UserError
from danceopd_ext.finite import first_broken
from danceopd_ext.toolkits.native.state import OPTIMIZER_FILE, STUDENT_FILE


def check_state(folder: Path, student: Mapping[str, torch.Tensor], entries: Mapping[int, Mapping[str, Any]]) -> None:
    """Raise UserError if the weights or the optimizer of a state hold NaN: a run that continues it would be lost.

    `folder`: the state's. `entries`: number of a weight -> what the optimizer keeps about it.
    """
    if broken := first_broken(student):
        file = folder / STUDENT_FILE
        raise UserError(f"{file} (resume): {broken} holds NaN or infinite numbers: use an earlier state.")
    file = folder / OPTIMIZER_FILE
    for number, entry in entries.items():
        if broken := first_broken(entry):
            of = f"{broken} of parameter {number}"
            raise UserError(f"{file} (resume): {of} holds NaN or infinite numbers: use an earlier state.")

"""Reads our own part of a state that a toolkit saved: how far the run was."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from danceopd_ext.errors import UserError, shorten
from danceopd_ext.foreign.tensors import read_pickle

#: accelerate's name for the file of our Progress, the first object that is registered
PROGRESS_FILE = "custom_checkpoint_0.pkl"
#: more steps than any run has
MOST_STEPS = 10**9
#: the largest float
LARGEST_LOSS = sys.float_info.max


def read_progress(folder: Path) -> dict[str, Any]:
    """Return {"step": optimizer steps done, "loss": their mean loss} of a state folder.

    Raises UserError, which names the file, if it is missing, damaged or not ours.
    """
    file = folder / PROGRESS_FILE
    found = read_pickle(file, "progress of the state")
    found = found if isinstance(found, dict) else {}
    step, loss = found.get("step"), 0.0 if found.get("loss") is None else found["loss"]
    if not isinstance(step, int) or isinstance(step, bool) or not 0 <= step <= MOST_STEPS:
        raise UserError(f"{file}: step is {shorten(repr(step))}, not a number of steps.")
    if not isinstance(loss, int | float) or isinstance(loss, bool) or abs(loss) > LARGEST_LOSS:
        raise UserError(f"{file}: loss is {shorten(repr(loss))}, not a number.")
    return {"step": step, "loss": float(loss)}

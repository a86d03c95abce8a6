"""Resume as if the run had not stopped.

sd-scripts itself restores weights, optimizer and schedule, but counts steps (file names, the end, previews) and reads
the data from the start again. So the start is replayed: the toolkit's own loop runs over the data of the steps done,
without the model, and the state is loaded where it was saved. What follows is then the same to the last bit.
"""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch

from danceopd_ext.errors import UserError
from danceopd_ext.toolkits.hosted.progress import PROGRESS_FILE, read_progress

#: arguments of the toolkit that must not act while steps are replayed
QUIET = {
    "save_every_n_steps": None,
    "save_every_n_epochs": None,
    "validate_every_n_steps": None,
    "validate_every_n_epochs": sys.maxsize,
}


class Replay:
    """The steps before a saved state, run without the model. `quiet` while nothing is to be saved, drawn or logged."""

    def __init__(self, folder: Path, step: int, loss: float):
        self.folder, self.step, self.loss = folder, step, loss
        self.quiet = True
        self.loaded = False
        self._kept: dict[str, Any] | None = None

    def is_over(self, args: Namespace) -> bool:
        """Whether a micro-batch is to be learnt from; called before each."""
        if not self.quiet:
            return True
        if self._kept is None:
            self.check_end(args.max_train_steps)  # which the toolkit may have counted from max_train_epochs
            self._kept = {name: getattr(args, name) for name in QUIET}
            vars(args).update(QUIET)
        if self.loaded:
            vars(args).update(self._kept)
            self.quiet = False
        return self.loaded

    def check_end(self, max_train_steps: int) -> None:
        """Raise UserError where nothing is left to do."""
        if self.step >= max_train_steps:
            raise UserError(
                f'resume = "{self.folder}" is at step {self.step} of max_train_steps = {max_train_steps}: nothing is '
                "left to do. Raise max_train_steps."
            )

    def nothing(self, network: torch.nn.Module) -> torch.Tensor:
        """A loss that teaches nothing and reads as the mean of those before; some optimizers want a gradient."""
        weight = next(parameter for parameter in network.parameters() if parameter.requires_grad)
        return weight.sum() * 0 + self.loss

    def after_step(self, step: int, accelerator: Any) -> None:
        """The toolkit has counted to `step`. Load the state when that is where it was saved."""
        if step != self.step or self.loaded:
            return
        micro_batch = accelerator.step
        accelerator.load_state(str(self.folder))
        accelerator.step = micro_batch  # of the loop that runs, should accumulation have changed
        self.loaded = True


def take_resume(args: Namespace) -> Replay | None:
    """What args.resume names, taken away from the toolkit. Raises UserError where it is not a state of such a run."""
    if not args.resume:
        return None
    if args.resume_from_huggingface:
        raise UserError("resume_from_huggingface is not supported here: download the state and name its folder.")
    given = [name for name in ("initial_epoch", "initial_step") if getattr(args, name) is not None]
    given += ["skip_until_initial_step"] if args.skip_until_initial_step else []
    if given:
        raise UserError(f"{given[0]}: a resumed run goes on where its state was saved. Remove {' and '.join(given)}.")
    folder = Path(args.resume)
    if not os.path.lexists(folder / PROGRESS_FILE):
        raise UserError(
            f'resume = "{args.resume}" is not a state of a DanceOPD run with sd-scripts: it has no {PROGRESS_FILE}. '
            "States are made by save_state = true, in folders that end in -state."
        )
    try:
        state = read_progress(folder)
    except UserError as error:
        raise UserError(
            f'resume = "{args.resume}": {PROGRESS_FILE} is damaged or holds more than numbers. Resume from an earlier '
            f"state. {error}"
        ) from error
    replay = Replay(folder, state["step"], state["loss"])
    if not args.max_train_epochs:
        replay.check_end(args.max_train_steps)
    args.resume = None
    return replay

"""Resumes a run with bit-identical results.

The toolkits restore weights, optimizer and schedule, but count steps (file names, the end, previews) and read the data
from the start again. So the start is replayed: the toolkit's own loop runs over the data of the steps that are done,
without the model, and the state is loaded at the step at which it was saved.
"""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch

from danceopd_ext.errors import UserError
from danceopd_ext.toolkits.hosted.state_progress import PROGRESS_FILE, read_progress

#: arguments of the toolkits that must not act while steps are replayed
QUIET = {
    "save_every_n_steps": None,
    "save_every_n_epochs": None,
    "validate_every_n_steps": None,
    "validate_every_n_epochs": sys.maxsize,
    "scale_weight_norms": None,
}


class Replay:
    """The steps before a saved state, run without the model. `quiet`: nothing is saved, drawn or logged now."""

    def __init__(self, folder: Path, step: int, loss: float):
        self.folder, self.step, self.loss = folder, step, loss
        self.quiet = True
        self.loaded = False
        self._kept: dict[str, Any] | None = None
        self._trackers: list[Any] = []

    def is_over(self, args: Namespace, accelerator: Any) -> bool:
        """Return whether to train on the next micro-batch; call it before each."""
        if not self.quiet:
            return True
        if self._kept is None:
            self.check_end(args.max_train_steps)  # the toolkit may have computed it from max_train_epochs
            self._kept = {name: value for name, value in vars(args).items() if name in QUIET}
            vars(args).update((name, QUIET[name]) for name in self._kept)
            self._trackers, accelerator.trackers = accelerator.trackers, []
        if self.loaded:
            accelerator.trackers = self._trackers
            vars(args).update(self._kept)
            self.quiet = False
        return self.loaded

    def check_end(self, max_train_steps: int) -> None:
        """Raise UserError if nothing is left to do."""
        if self.step >= max_train_steps:
            raise UserError(
                f'resume = "{self.folder}" is at step {self.step} of max_train_steps = {max_train_steps}: nothing is '
                "left to do. Raise max_train_steps."
            )

    def zero_loss(self, network: torch.nn.Module) -> torch.Tensor:
        """Return a loss without effect, with the value of the earlier mean loss; some optimizers need a gradient."""
        weight = next(parameter for parameter in network.parameters() if parameter.requires_grad)
        return weight.sum() * 0 + self.loss

    def after_step(self, step: int, accelerator: Any) -> None:
        """Load the state if it was saved at `step`, which the toolkit has reached."""
        if step != self.step or self.loaded:
            return
        micro_batch = accelerator.step
        accelerator.load_state(str(self.folder))
        accelerator.step = micro_batch  # of the loop that runs, in case the accumulation has changed
        self.loaded = True


def take_resume(args: Namespace) -> Replay | None:
    """Return what args.resume names and hide it from the toolkit. Raises UserError if it is not a state of our run."""
    if not args.resume:
        return None
    if args.resume_from_huggingface:  # the files checked here would not be those that accelerate unpickles
        raise UserError("resume_from_huggingface is not supported here: download the state and name its folder.")
    given = [name for name in ("initial_epoch", "initial_step") if getattr(args, name, None) is not None]
    given += ["skip_until_initial_step"] if getattr(args, "skip_until_initial_step", None) else []
    if given:
        raise UserError(
            f"{given[0]}: a resumed run continues from the step of its state. Remove {' and '.join(given)}."
        )
    folder = Path(args.resume)
    if not os.path.isdir(folder):
        raise UserError(
            f'resume = "{args.resume}": there is no such folder. The name of a state folder ends in -state.'
        )
    if not os.path.lexists(folder / PROGRESS_FILE):
        raise UserError(
            f'resume = "{args.resume}" is not a state of a DanceOPD run: it has no {PROGRESS_FILE}. With save_state = '
            "true, a run saves states in folders whose names end in -state. To start from a LoRA, use network_weights."
        )
    try:
        state = read_progress(folder)
    except UserError as error:
        raise UserError(
            f'resume = "{args.resume}": {PROGRESS_FILE} is damaged or contains more than numbers. Resume from an '
            "earlier "
            f"state. {error}"
        ) from error
    replay = Replay(folder, state["step"], state["loss"])
    if not args.max_train_epochs:
        replay.check_end(args.max_train_steps)
    args.resume = None
    return replay

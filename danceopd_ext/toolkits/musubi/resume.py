"""A resumed run is the run that was not interrupted.

musubi restores weights, optimizer, schedule and random states, but counts its steps and epochs from 0 again: it would
train max_train_steps more, name files by the wrong step, and read the data from the start. So its loop runs through the
steps that were done, reading their batches and doing nothing with them; then all of its counters are right. Only its
average loss, in the progress bar, counts them as zeros until an epoch has gone by.
"""

from __future__ import annotations

import argparse
import os
import random
from pathlib import Path
from typing import Any

import torch

from danceopd_ext.errors import UserError
from danceopd_ext.toolkits.hosted.progress import PROGRESS_FILE, read_progress

#: what musubi's loop does besides a step; off, by these values, while steps are run through
QUIET = {
    "save_every_n_steps": None,
    "save_every_n_epochs": None,
    "sample_every_n_steps": None,
    "sample_every_n_epochs": None,
    "scale_weight_norms": None,
    "max_grad_norm": 0.0,
}


def check_state(args: argparse.Namespace) -> None:
    """Raise UserError where `resume` does not name a state of ours, or one that has nothing left to do."""
    if args.resume_from_huggingface:  # what is checked here would not be what accelerate then unpickles
        raise UserError("resume_from_huggingface is not supported here: download the state and name its folder.")
    if not args.resume:
        return
    folder = Path(args.resume)
    if not os.path.isdir(folder):
        raise UserError(f'resume = "{args.resume}": there is no such folder. States are folders that end in -state.')
    try:
        step = read_progress(folder)["step"]
    except UserError as error:
        raise UserError(
            f'resume = "{args.resume}" is no state of a danceopd run ({PROGRESS_FILE} in it is missing or damaged). To '
            "start from a LoRA, use network_weights."
        ) from error
    if args.max_train_steps <= step and args.max_train_epochs is None:
        raise UserError(
            f'resume = "{args.resume}" is at step {step}, and max_train_steps = {args.max_train_steps} is all steps '
            "together: nothing is left to do. Raise max_train_steps."
        )


class FastForward:
    """Lets musubi's loop run through the steps that a restored state has behind it.

    steps: optimizer steps. optimizer, lr_scheduler: accelerate's. To be made after the state was restored and before
    the loop; `skip` must be asked first in every micro-batch.
    """

    def __init__(self, steps: int, args: argparse.Namespace, accelerator: Any, optimizer: Any, lr_scheduler: Any):
        self.left, self.args, self.accelerator = steps, args, accelerator
        self._stilled = [optimizer, lr_scheduler] if steps else []
        self._kept = {name: getattr(args, name) for name in QUIET}
        self._trackers: list[Any] = []
        self._random = _random_state()
        if steps:
            args.sample_at_first = False
            accelerator.step = 0  # its count of micro-batches, which musubi's loop begins anew
            _set(args, QUIET)
        for one in self._stilled:
            one.step = _nothing

    def skip(self) -> torch.Tensor | None:
        """A loss without effect while there are steps to run through; None: do the step."""
        if not self.left:
            self._end()
            return None
        if self.accelerator.trackers:  # made since, by the loop
            self._trackers, self.accelerator.trackers = self.accelerator.trackers, []
        if self.accelerator.sync_gradients:
            self.left -= 1
            if not self.left:
                _restore_random_state(self._random)
        return torch.zeros((), device=self.accelerator.device, requires_grad=True)

    def _end(self) -> None:
        """The loop's own behaviour again, once it has left the last step that was skipped."""
        if self._stilled:
            self.accelerator.trackers = self._trackers
            _set(self.args, self._kept)
            for one in self._stilled:
                del one.step
            self._stilled = []


def _nothing(*_: Any, **__: Any) -> None: ...


def _set(args: argparse.Namespace, values: dict[str, Any]) -> None:
    for name, value in values.items():
        setattr(args, name, value)


def _random_state() -> tuple:
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None
    return random.getstate(), torch.get_rng_state(), cuda


def _restore_random_state(state: tuple) -> None:
    random.setstate(state[0])
    torch.set_rng_state(state[1])
    if state[2] is not None:
        torch.cuda.set_rng_state_all(state[2])

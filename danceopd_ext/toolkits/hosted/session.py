"""Accompanies the toolkit's own loop from step to step: the JSONL log, the losses for its bar, and Ctrl-C.

The loop belongs to the toolkit, so Ctrl-C works through its arguments: in the last step `save_every_n_steps` becomes 1,
the toolkit saves after that step as usual, and the next micro-batch leaves the loop with an exception.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from danceopd_ext.errors import Stopped
from danceopd_ext.toolkits.hosted.console import tell
from danceopd_ext.toolkits.hosted.distiller import Distiller
from danceopd_ext.toolkits.hosted.guarded_saves import Drawing, GuardedSaves
from danceopd_ext.toolkits.hosted.journal import HostedJournal, StepTotals
from danceopd_ext.toolkits.hosted.saved_files import saved_at
from danceopd_ext.toolkits.native.stop import SIGNALS, StopRequest
from danceopd_ext.toolkits.tracker_guard import guard_trackers

#: the toolkits' arguments in the last step of a stopped run: save, and neither draw nor validate
LAST_STEP = {
    "save_every_n_steps": 1,
    "save_every_n_epochs": None,
    "sample_every_n_steps": None,
    "sample_every_n_epochs": None,
    "validate_every_n_steps": None,
    "validate_every_n_epochs": sys.maxsize,
}


class Session:
    """One run. `begin` and `end` go around each training micro-batch; the trainer must `close` it.

    args: the toolkit's. distiller: the run's; its progress counts the steps, also of a resumed run.
    """

    def __init__(self, args: Namespace, distiller: Distiller):
        self.args, self.distiller, self.accelerator = args, distiller, distiller.accelerator
        self.stop = StopRequest()
        self.stopping = False
        self.current = 0
        """The step that is running, counted from 1."""
        self.journal: HostedJournal | None = None
        self._totals = StepTotals(list(distiller.options.teachers))
        self._pending: tuple[int, StepTotals, float | None] | None = None
        self._grad_norm: float | None = None
        self._let_workers_end = keep_workers_alive(self.accelerator)
        self.drawing = Drawing()
        self.saves = GuardedSaves(
            args, distiller.switch.student, self.accelerator, lambda: self.stop.requested, lambda: self.stopping,
            time.time(),
        )  # fmt: skip

    @property
    def step(self) -> int:
        """Return the optimizer steps that are done, with the one whose last micro-batch has ended."""
        return self.distiller.progress.step

    def begin(self) -> None:
        """Start a micro-batch. Raises Stopped if the step before was the last one, which is saved by now."""
        self._write()
        self.current = self.step + 1
        if self.stopping:
            self.accelerator.wait_for_everyone()  # the main process may still be saving
            self.accelerator.end_training()
            raise Stopped(self.outcome())
        if self.journal is None:
            folder = Path(self.args.output_dir)
            guard_trackers(self.accelerator, tell)
            path = folder / f"{self.args.output_name}.log.jsonl"
            self.journal = HostedJournal(path, self.step, self.accelerator.device, self.accelerator.is_main_process)
            self.distiller.stage = self.journal.clock
            self._measure()
            self.stop.__enter__()

    def end(self) -> None:
        """End a micro-batch after its loss and before its backward."""
        self._totals.add(self.distiller.outcome, self.distiller.routes)
        if not self.accelerator.sync_gradients:
            return
        totals, self._totals = self._totals, StepTotals(self._totals.routes)
        asked = self._together(totals)
        self._pending = self.step, totals, _learning_rate(self.accelerator)
        if asked and self.step < self.args.max_train_steps:
            self.stopping = True
            vars(self.args).update({name: value for name, value in LAST_STEP.items() if hasattr(self.args, name)})

    def outcome(self) -> str:
        """Return what was saved and how to continue."""
        saved = self.saves.of_step(self.step, saved_at(self.args, self.step))
        what = f", saved {saved.lora}" if saved.lora else ""
        return f"stopped after step {self.step}{what}. {saved.how_to_continue()}".strip()

    def shown(self) -> dict[str, str]:
        """Return the recent loss of each route, for the toolkit's progress bar."""
        return self.journal.shown() if self.journal else {}

    def close(self) -> None:
        self._let_workers_end()
        self._write()
        self.stop.__exit__()
        if self.journal:
            self.journal.close()

    def _together(self, totals: StepTotals) -> bool:
        """Add up the numbers of all processes; return whether one of them was asked to stop."""
        if self.accelerator.num_processes == 1:
            return self.stop.requested
        asked = torch.tensor([float(self.stop.requested)])
        numbers = torch.cat([totals.numbers, asked]).to(self.accelerator.device)
        numbers = self.accelerator.reduce(numbers, reduction="sum").cpu()
        totals.numbers = numbers[:-1]
        return bool(numbers[-1])

    def _measure(self) -> None:
        """Measure the toolkit's own backward, clipping and optimizer; log a step after its optimizer."""
        accelerator, clock = self.accelerator, self.journal.clock
        backward, clip = accelerator.backward, accelerator.clip_grad_norm_

        def timed_backward(*given: Any, **named: Any) -> Any:
            with clock("match"):
                return backward(*given, **named)

        def timed_clip(*given: Any, **named: Any) -> Any:
            with clock("optimizer"):
                norm = clip(*given, **named)
            self._grad_norm = None if norm is None else float(norm)
            return norm

        accelerator.backward, accelerator.clip_grad_norm_ = timed_backward, timed_clip
        for optimizer in _optimizers(accelerator):
            optimizer.step = self._timed_step(optimizer.step)

    def _timed_step(self, step: Callable) -> Callable:
        def timed(*given: Any, **named: Any) -> Any:
            with self.journal.clock("optimizer"):
                done = step(*given, **named)
            self._write()
            return done

        return timed

    def _write(self) -> None:
        if self._pending and self.journal:
            step, totals, rate = self._pending
            self.journal.record(step, totals, rate, self._grad_norm)
        self._pending = self._grad_norm = None


def _learning_rate(accelerator: Any) -> float | None:
    """Return the learning rate of this step, times what Prodigy and D-Adaptation found (their `d`)."""
    optimizers = _optimizers(accelerator)
    if not optimizers:
        return None
    group = optimizers[0].param_groups[0]
    return float(group["lr"] or 0.0) * float(group.get("d", 1.0))


def _optimizers(accelerator: Any) -> list[Any]:
    return getattr(accelerator, "_optimizers", [])  # accelerate has no public name for them


def keep_workers_alive(accelerator: Any) -> Callable[[], None]:
    """Let the data-loading processes ignore requests to stop, which a console or a service manager sends to all.

    The step needs them. Returns a function after which SIGTERM ends them again, as torch and Python expect.
    """
    needed = multiprocessing.Value("b", 1, lock=False)
    for loader in getattr(accelerator, "_dataloaders", []):  # has no public name, either
        getattr(loader, "base_dataloader", loader).worker_init_fn = partial(ignore_requests, needed)

    def release() -> None:
        needed.value = 0

    return release


def ignore_requests(needed: Any, _worker: int) -> None:
    """Prepare a data-loading process at its start. needed: a shared number, 0 if SIGTERM may end the process."""
    for number in SIGNALS:
        if number != signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, partial(_end_unless, needed))


def _end_unless(needed: Any, number: int, _frame: object) -> None:
    if not needed.value:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

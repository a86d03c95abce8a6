"""Writes the JSONL log of a run inside a toolkit: one record per optimizer step, with the names of the native log."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from danceopd_ext.machine import peak_memory_mb
from danceopd_ext.method import Outcome
from danceopd_ext.toolkits.hosted.console import tell
from danceopd_ext.toolkits.log_file import RECENT, LogFile
from danceopd_ext.toolkits.stage_clock import StageClock


class StepTotals:
    """Sums over the micro-batches of one optimizer step. routes: the names of all teachers."""

    def __init__(self, routes: Sequence[str]):
        self.routes = list(routes)
        self.numbers = torch.zeros(5 + 2 * len(self.routes), dtype=torch.float32)

    def add(self, outcome: Outcome, routes: Sequence[str]) -> None:
        """Add a micro-batch. routes: of each of its samples."""
        forwards = (outcome.rollout_forwards, outcome.teacher_forwards, outcome.student_forwards)
        self.numbers[:5] += torch.tensor([len(routes), float(outcome.sigma_BK.mean(1).sum()), *forwards])
        for route, loss in zip(routes, outcome.loss_B.tolist(), strict=True):
            place = 5 + 2 * self.routes.index(route)
            self.numbers[place : place + 2] += torch.tensor([loss, 1.0])

    def losses(self) -> dict[str, float]:
        """Return the mean loss of each route in the step."""
        sums, counts = self.numbers[5::2].tolist(), self.numbers[6::2].tolist()
        return {name: sums[i] / counts[i] for i, name in enumerate(self.routes) if counts[i]}

    def record(self) -> dict[str, Any]:
        """Return these numbers' part of the step's entry in the log; see the native Journal."""
        samples, sigmas, *forwards = self.numbers[:5].tolist()
        losses = self.losses()
        kinds = ("rollout", "teacher", "student")
        return {
            "route": " + ".join(losses),
            "loss": float(self.numbers[5::2].sum()) / samples,
            "losses": losses,
            "query_sigma": sigmas / samples,
            **{f"{kind}_forwards_per_sample": n / samples for kind, n in zip(kinds, forwards, strict=True)},
            "forwards": int(sum(forwards)),
            "samples": int(samples),
        }


class HostedJournal:
    """The log file output_dir/output_name.log.jsonl, and the recent losses for the progress bar.

    start: the steps that are done; later records of an earlier run are dropped. writes: true on the main process only.
    """

    def __init__(self, path: Path, start: int, device: torch.device, writes: bool):
        self.device = device
        self.recent: dict[str, deque[float]] = {}
        self.clock = StageClock(device)
        self.last = time.perf_counter()
        self.file = LogFile(path, start, tell) if writes else None

    def record(self, step: int, totals: StepTotals, learning_rate: float | None, grad_norm: float | None) -> None:
        """Log optimizer step `step`, counted from 1. grad_norm: before clipping; None if it was not measured."""
        now = time.perf_counter()
        seconds, self.last = now - self.last, now
        entry = {
            "step": step,
            **totals.record(),
            "learning_rate": learning_rate,
            "grad_norm": grad_norm,
            "seconds": round(seconds, 4),
            "stage_seconds": self.clock.take(seconds),
            "peak_memory_mb": round(peak_memory_mb(self.device), 1),
        }
        for route, loss in entry["losses"].items():
            self.recent.setdefault(route, deque(maxlen=RECENT)).append(loss)
        if self.file:
            self.file.write(entry)

    def shown(self) -> dict[str, str]:
        """Return the mean of each route's recent losses, as text."""
        return {name: f"{sum(values) / len(values):.3g}" for name, values in sorted(self.recent.items())}

    def close(self) -> None:
        if self.file:
            if summary := self.clock.summary():
                tell(summary)
            self.file.close()
            self.file = None

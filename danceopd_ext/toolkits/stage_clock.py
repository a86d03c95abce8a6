"""Measures the seconds that the stages of a step take: rollout, teacher, match and optimizer."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

#: match is the student's forward and backward with gradients; optimizer includes clipping
STAGES = ("rollout", "teacher", "match", "optimizer")


class StageClock:
    """Measures what runs inside `clock(stage)`. A stage within another counts as part of the outer one.

    A GPU computes behind the program, so the clock waits for it at both ends of a stage. That is eight waits in a step
    of seconds, and most of them come anyway: the losses of a match and the gradient's norm are copied to the CPU.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.steps = 0
        self.sums = dict.fromkeys((*STAGES, "everything"), 0.0)
        """Seconds of all steps that were taken."""
        self._step = dict.fromkeys(STAGES, 0.0)
        self._is_inside = False

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        if self._is_inside:
            yield
            return
        self._is_inside = True
        try:
            start = self._now()
            yield
            self._step[stage] += self._now() - start
        finally:
            self._is_inside = False

    def take(self, everything: float) -> dict[str, float]:
        """End a step that took `everything` in seconds, and return the seconds of its stages."""
        step, self._step = self._step, dict.fromkeys(STAGES, 0.0)
        self.steps += 1
        for stage, seconds in (*step.items(), ("everything", everything)):
            self.sums[stage] += seconds
        return {stage: round(seconds, 4) for stage, seconds in step.items()}

    def summary(self) -> str:
        """Where the time of the steps went, in one line; empty if no step was taken."""
        if not self.steps:
            return ""
        total = self.sums["everything"]
        stages = ", ".join(f"{stage} {self.sums[stage]:.1f} s" for stage in STAGES)
        rest = max(0.0, total - sum(self.sums[stage] for stage in STAGES))
        steps = f"{self.steps:,} step" + ("s" if self.steps > 1 else "")
        return f"time     {total:.1f} s for {steps}: {stages}, everything else {rest:.1f} s"

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type in ("mps", "xpu"):
            getattr(torch, self.device.type).synchronize()
        return time.perf_counter()

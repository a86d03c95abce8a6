"""Counts what the passes of a run need: our own fields on torch's meta device, in the shapes of the run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial

import torch

from danceopd_ext.engine.fields import AdapterField
from danceopd_ext.method import Field, velocity_mse
from danceopd_ext.models.conditions import TextConditions
from danceopd_ext.models.family import Family
from danceopd_ext.planning.gpu_autocast import GpuAutocast, as_on_gpu
from danceopd_ext.planning.paper import STUDENT, TEACHER, Kind, Paper
from danceopd_ext.planning.tally import OUTSIDE, Spent, Tally

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Need:
    """What a pass needs. `memory`: bytes on top of weights, adapters and gradients. `flops`, and bytes `moved`."""

    memory: int
    flops: int
    moved: int


@dataclass(frozen=True)
class Inputs:
    """The shapes of what a pass is asked about.

    `latents`: (C, H, W). `condition`: of a sample, `empty`: of the empty prompt.
    """

    latents: tuple[int, int, int]
    condition: Shapes
    empty: Shapes


@dataclass(frozen=True)
class Passes:
    """Counts the passes of one transformer on paper.

    `student_guidance`, `teacher_guidance`: scales. `dtype`: of weights and computation.
    """

    family: Family
    paper: Paper
    dtype: torch.dtype
    gradient_checkpointing: bool
    student_guidance: float = 1.0
    teacher_guidance: float = 1.0

    def rollout(self, inputs: Inputs, samples: int) -> Need:
        """Count a forward of the student for this many samples, without gradients."""
        return self._count(partial(self._forward, STUDENT, self.student_guidance), inputs, samples)

    def teacher(self, inputs: Inputs, samples: int) -> Need:
        """Count a forward of the teacher with the largest LoRA."""
        return self._count(partial(self._forward, TEACHER, self.teacher_guidance), inputs, samples)

    def gradient(self, inputs: Inputs, samples: int) -> Need:
        """Count a piece of the gradient pass: forward, loss and backward of the student."""
        forwards = 1 if self.student_guidance == 1 else 2
        return self._count(self._gradient, inputs, samples, forwards)

    def _forward(self, name: str, guidance: float, latents, sigma, condition) -> None:
        with torch.no_grad():
            self._field(name, guidance)(latents, sigma, condition)

    def _gradient(self, latents, sigma, condition) -> None:
        velocity = self._field(STUDENT, self.student_guidance)(latents, sigma, condition)
        velocity_mse(velocity, torch.empty_like(velocity)).mean().backward()

    def _field(self, name: str, guidance: float) -> Field:
        known = name if name in self.paper.adapters.names else None
        return self.family.guided(AdapterField(self.family, self.paper.adapters, known, self._autocast), guidance)

    def _autocast(self) -> AbstractContextManager:
        return GpuAutocast(self.dtype)

    def _count(self, work: Callable, inputs: Inputs, samples: int, forwards: int = 1) -> Need:
        """Measure the blocks that are kept, and add what the others need: as much as the last of their kind.

        While a block runs its backward, the inputs of all blocks before it are kept, and those of all blocks of earlier
        forwards (guidance has two).
        """
        parts = self._measure(work, inputs, samples)
        kinds = sorted(self.paper.kinds, key=lambda kind: list(parts).index(kind.names[-1]))
        growth = [_growth(kind, parts) for kind in kinds]
        everything = sum(growth) * forwards
        peaks, before = [parts[OUTSIDE].peak + everything], sum(growth) * (forwards - 1)
        for kind, more in zip(kinds, growth, strict=True):
            before += more
            peaks.append(parts[kind.names[-1]].peak + before)
        lasts = [(kind.more, parts[kind.names[-1]]) for kind in kinds]
        return Need(
            max(peaks),
            sum(part.flops for part in parts.values()) + sum(more * last.flops for more, last in lasts),
            sum(part.moved for part in parts.values()) + sum(more * last.moved for more, last in lasts),
        )

    def _measure(self, work: Callable, inputs: Inputs, samples: int) -> dict[str, Spent]:
        """What each block that is kept needs, and everything outside of them."""
        if self.gradient_checkpointing:
            self.paper.transformer.enable_gradient_checkpointing()
        tally = Tally()
        self.paper.give_gradients()
        empty = partial(torch.empty, device="meta")
        item = {name: empty(shape, dtype=self.dtype) for name, shape in inputs.condition.items()}
        unconditional = {name: empty(shape, dtype=self.dtype) for name, shape in inputs.empty.items()}
        condition = TextConditions([item] * samples, unconditional)
        for block in self.paper.blocks.values():
            block.forward = as_on_gpu(type(block).forward.__get__(block), self.dtype)
        with tally, tally.labelled(self.paper.blocks):
            work(empty((samples, *inputs.latents)), empty((samples,)), condition)
        return tally.parts


def _growth(kind: Kind, parts: Mapping[str, Spent]) -> int:
    """Return by how many bytes the blocks of this kind that are not kept would raise the peak."""
    if not kind.more:
        return 0
    before, last = (parts[name].peak for name in kind.names[-2:])
    return kind.more * max(last - before, 0)

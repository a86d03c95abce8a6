"""Switches which LoRA acts on the toolkit's one transformer: the student's, one teacher's, or none.

The toolkits wrap each linear layer once for every network, so the forwards chain. `set_enabled(False)` turns a
teacher's network off; the student's ignores that and needs a multiplier of 0. Both leave the base exact to the bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch

#: the student's name as an adapter; a teacher cannot have it
STUDENT = "student"


class BlockSwap(Protocol):
    """Blocks of the transformer that wait in main memory and are moved to the device when they run."""

    def for_inference(self) -> None:
        """Prepare for forwards without a backward."""
        ...

    def for_training(self) -> None:
        """Prepare for one forward and its backward."""
        ...


class NoBlockSwap:
    """All blocks stay on the device."""

    def for_inference(self) -> None: ...

    def for_training(self) -> None: ...


class Switch:
    """Keeps one adapter active at a time, for inference (no gradient) or for training.

    The student must still be active, and in training, while `backward` runs: gradient checkpointing computes the
    forward again there. `student`: the toolkit's network, not wrapped. `teachers`: name -> network; the base has none.
    """

    def __init__(
        self, student: torch.nn.Module, teachers: Mapping[str, torch.nn.Module], swap: BlockSwap | None = None
    ):
        self.student, self.teachers, self.swap = student, dict(teachers), swap or NoBlockSwap()
        self.active: str | None = STUDENT
        self.training = True
        for network in self.teachers.values():
            network.set_enabled(False)

    def to(self, name: str | None, training: bool) -> None:
        """Make `name` active: STUDENT, a teacher with a LoRA, or None for the base alone.

        Inference also turns off the student's dropout: a rollout is what the finished LoRA would do.
        """
        if training and name != STUDENT:
            raise ValueError("only the student is trained")
        if training != self.training:
            self.student.train(training)
            self.swap.for_training() if training else self.swap.for_inference()
            self.training = training
        if name != self.active:
            if self.active in self.teachers:
                self.teachers[self.active].set_enabled(False)
            self.student.set_multiplier(1.0 if name == STUDENT else 0.0)
            if name in self.teachers:
                self.teachers[name].set_enabled(True)
            self.active = name

    def restore(self) -> None:
        """Make the student active for training, as the toolkit expects between our steps."""
        self.to(STUDENT, training=True)

"""Whose LoRA is heard: the student's, one teacher's, or nobody's, around the toolkit's one transformer.

The toolkits wrap each linear layer once for every network, so the forwards chain. A teacher's network is silenced by
`set_enabled(False)`; the student's ignores that and needs a multiplier of 0. Both leave the base exact to the bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch

#: who is heard in the student's place; no teacher can be called so
STUDENT = "student"


class BlockSwap(Protocol):
    """Blocks of the transformer that live in main memory and are brought in when they run."""

    def for_looking(self) -> None:
        """Several forwards without a backward follow."""
        ...

    def for_learning(self) -> None:
        """One forward with its backward follows."""
        ...


class NoBlockSwap:
    """All blocks stay on the device."""

    def for_looking(self) -> None: ...

    def for_learning(self) -> None: ...


class Switch:
    """Exactly one voice at a time, and whether it looks (no gradient) or learns.

    The student must still be heard, and learning, while `backward` runs: gradient checkpointing computes the forward
    again there. `student`: the toolkit's network, not wrapped. `teachers`: name -> network; the base has none.
    """

    def __init__(
        self, student: torch.nn.Module, teachers: Mapping[str, torch.nn.Module], swap: BlockSwap | None = None
    ):
        self.student, self.teachers, self.swap = student, dict(teachers), swap or NoBlockSwap()
        self.heard: str | None = STUDENT
        self.learning = True
        for network in self.teachers.values():
            network.set_enabled(False)

    def to(self, name: str | None, learning: bool) -> None:
        """Hear `name`: STUDENT, a teacher with a LoRA, or None for the bare base.

        Looking silences the student's dropout as well: a rollout is what the finished LoRA would do.
        """
        if learning and name != STUDENT:
            raise ValueError("only the student learns")
        if learning != self.learning:
            self.student.train(learning)
            self.swap.for_learning() if learning else self.swap.for_looking()
            self.learning = learning
        if name != self.heard:
            if self.heard in self.teachers:
                self.teachers[self.heard].set_enabled(False)
            self.student.set_multiplier(1.0 if name == STUDENT else 0.0)
            if name in self.teachers:
                self.teachers[name].set_enabled(True)
            self.heard = name

    def restore(self) -> None:
        """What the toolkit expects between our steps: the student, ready to learn."""
        self.to(STUDENT, learning=True)

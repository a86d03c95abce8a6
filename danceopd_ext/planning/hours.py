"""How long a run takes, from counted arithmetic and traffic, and a card's figures or a measurement.

A pass takes its FLOPs at the part of the card's tensor arithmetic that matrix products reach, and on top its traffic at
the card's bandwidth: in torch's eager mode most operations are not matrix products and wait for memory. The parts are
assumed, and held against two times: one forward of Z-Image's base at 1024 pixels, taken as 1.4 s on an RTX 4070 (1.5
here), and a step of its preset, measured as 11 s on an H200 (10 here).
"""

from __future__ import annotations

from dataclasses import dataclass

from danceopd_ext.planning.cards import Card
from danceopd_ext.planning.count import Need
from danceopd_ext.planning.phases import Memory
from danceopd_ext.planning.work import Forwards

#: bytes a second from pinned main memory over PCIe 4.0 x16: 32 GB/s less its overhead
TRANSFER = 24e9


@dataclass(frozen=True)
class Hours:
    """The time of a run. `step`: seconds. `forwards`: of a step. `tflop`: of one sample's forward.

    `waiting`: seconds of a step that wait for swapped blocks. `how`: what the figures come from.
    """

    step: float
    steps: int
    forwards: Forwards
    tflop: float
    waiting: float
    how: str

    @property
    def total(self) -> float:
        """Hours of the whole run, without encoding, previews and saves."""
        return self.step * self.steps / 3600


def hours_of(memory: Memory, card: Card, pace: float = 1.0, how: str = "") -> Hours:
    """Return the time of a run on a card. `pace`: measured over estimated time, if that was measured."""
    work, count = memory.work, memory.forwards
    rollout, gradient = memory.need("rollout"), memory.need("gradient")
    checkpointing = 3 if work.preset.training.gradient_checkpointing else 2  # unpacks of a weight
    roll, roll_wait = pass_seconds(rollout, card, memory.base.traffic, memory.base.travels)
    match, match_wait = pass_seconds(gradient, card, checkpointing * memory.base.traffic, 2 * memory.base.travels)
    passes = (count.rollout + count.teacher) / work.together
    pieces = count.gradient / work.matched
    step = pace * (passes * roll + pieces * match) + passes * roll_wait + pieces * match_wait
    waiting = passes * roll_wait + pieces * match_wait
    tflop = rollout.flops / work.together / 1e12
    return Hours(step, work.preset.training.max_train_steps, count, tflop, waiting, how or f"the table's {card.name}")


def pass_seconds(need: Need, card: Card, unpacking: int, travels: int) -> tuple[float, float]:
    """Return the seconds that a pass computes, and how long it then waits for blocks that travel."""
    computing = need.flops / (card.tflops * 1e12 * card.reached)
    computing += (need.moved + unpacking) / (card.bandwidth * 1e9)
    return computing, max(0.0, travels / TRANSFER - computing)

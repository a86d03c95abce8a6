"""Holds a base that is larger than the GPU: some of its blocks stay in main memory and travel when they compute.

The base is frozen, so weights travel in one direction only. The blocks that travel are spread evenly, and the next one
is copied on a stream of its own while this one and its neighbours compute. In the gradient pass, gradient checkpointing
runs a block's forward again right before its backward, which brings it back the same way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch

from danceopd_ext.engine.movers import mover_for
from danceopd_ext.engine.travelling_block import Mover, TravellingBlock

#: travelling blocks on the device at the same time: the one that computes and the one that comes next
ON_DEVICE = 2


def most_swapped(blocks: int) -> int:
    """Return the largest `blocks_to_swap` of a model with this many blocks."""
    return max(blocks - ON_DEVICE, 0)


def travelling(blocks: int, swapped: int) -> list[int]:
    """Return which of `blocks` travel, so that `swapped` of them are in main memory only at any time."""
    count = swapped + ON_DEVICE if swapped else 0
    return [number * blocks // count for number in range(count)]


def on_device(sizes: Sequence[int], swapped: int) -> int:
    """Return how many bytes of blocks with these `sizes` are on the device at the same time."""
    moving = travelling(len(sizes), swapped)
    return sum(sizes) - sum(sizes[i] for i in moving) + sum(sorted(sizes[i] for i in moving)[-ON_DEVICE:])


class BlockSwap:
    """Brings blocks to the device when they are called. `blocks`: all of them, in the order in which they compute.

    Needs gradient checkpointing of every block while gradients are enabled. Adapters must be on the blocks already.
    """

    def __init__(
        self, blocks: Sequence[torch.nn.Module], swapped: int, device: torch.device, mover: Mover | None = None
    ) -> None:
        mover = mover or mover_for(device)
        numbers = travelling(len(blocks), swapped)
        self.blocks = [TravellingBlock(blocks[number], device, mover) for number in numbers]
        #: numbers of travelling blocks that have memory on the device
        self.present: set[int] = set()
        self._order = Order(len(numbers))
        for own, number in enumerate(numbers):
            blocks[number].register_forward_pre_hook(partial(self._before, own), prepend=True)

    def _before(self, number: int, block: torch.nn.Module, args: tuple) -> None:
        """Bring the block if it is not here, drop the others, and start to bring the one that comes next."""
        following = self._order.follows(number, torch.is_grad_enabled())
        self._drop(self.present - {number, following})
        self._start(number)
        self.blocks[number].arrive()
        self._start(following)

    def _start(self, number: int) -> None:
        if number not in self.present:
            self.blocks[number].start()
            self.present.add(number)

    def _drop(self, numbers: set[int]) -> None:
        for number in numbers:
            self.blocks[number].drop()
            self.present.discard(number)

    @contextmanager
    def readable(self) -> Iterator[None]:
        """Let the weights of all blocks be read, in main memory, inside the block; nothing can compute there."""
        self._drop(set(self.present))
        for block in self.blocks:
            block.read()
        try:
            yield
        finally:
            for block in self.blocks:
                block.drop()


class Order:
    """Knows which block comes next: what followed the last time, at first the neighbour in the direction of travel.

    A pass over the blocks upwards is a forward, and downwards a backward. A wrong guess costs time only.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._learnt: dict[tuple, int] = {}
        self._last: tuple | None = None

    def follows(self, number: int, gradients: bool) -> int:
        """Return what follows block `number`, which computes now; `gradients`: whether they are enabled."""
        before = self._last[-1] if self._last else -1
        if self._last:
            self._learnt[self._last] = number
        self._last = (gradients, before, number)
        return self._learnt.get(self._last, self._guess(before, number, gradients))

    def _guess(self, before: int, number: int, gradients: bool) -> int:
        if gradients and (before > number or before == number > 0):
            return max(number - 1, 0)
        turn = number if gradients else 0
        return number + 1 if number + 1 < self.count else turn

"""musubi's block swap, told whether forwards alone follow or one with its backward."""

from __future__ import annotations

import contextlib
import io
from typing import Any

from danceopd_ext.toolkits.hosted.switch import BlockSwap, NoBlockSwap


class MusubiBlockSwap:
    """In training mode musubi moves blocks back in the backward pass; a forward without one leaves them misplaced.

    transformer: not wrapped; its blocks are swapped.
    """

    def __init__(self, transformer: Any):
        self.transformer = transformer

    def for_looking(self) -> None:
        with contextlib.redirect_stdout(io.StringIO()):  # it tells of every switch, twice a step
            self.transformer.switch_block_swap_for_inference()

    def for_learning(self) -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            self.transformer.switch_block_swap_for_training()


def block_swap(transformer: Any, blocks_to_swap: int | None) -> BlockSwap:
    """What the switch between looking and learning has to do to this transformer."""
    return MusubiBlockSwap(transformer) if blocks_to_swap else NoBlockSwap()

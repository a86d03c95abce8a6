"""Switches musubi's block swap between inference and training."""

from __future__ import annotations

import contextlib
import io
from typing import Any

from danceopd_ext.toolkits.hosted.active_adapter import BlockSwap, NoBlockSwap


class MusubiBlockSwap:
    """Uses musubi's inference mode for forwards without a backward.

    In training mode musubi moves blocks back in the backward pass, and a forward alone leaves them in the wrong place.
    transformer: not wrapped; its blocks are swapped.
    """

    def __init__(self, transformer: Any):
        self.transformer = transformer

    def for_inference(self) -> None:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints a line at every switch, twice a step
            self.transformer.switch_block_swap_for_inference()

    def for_training(self) -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            self.transformer.switch_block_swap_for_training()


def block_swap(transformer: Any, blocks_to_swap: int | None) -> BlockSwap:
    """Return how this transformer switches between inference and training."""
    return MusubiBlockSwap(transformer) if blocks_to_swap else NoBlockSwap()

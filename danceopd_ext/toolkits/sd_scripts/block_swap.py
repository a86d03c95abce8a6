"""Switches the block swap of sd-scripts between inference and training.

With block swap, blocks of the transformer wait in main memory and are moved to the device when they run. In training
the toolkit expects a backward after each forward, which moves the first blocks back. A forward alone (the rollout, the
teacher) needs the toolkit's mode for sampling. Versions of 2025 lack that mode: their samplers move the blocks back
before every forward.
"""

from __future__ import annotations

from typing import Any

from danceopd_ext.errors import UserError
from danceopd_ext.toolkits.hosted.active_adapter import BlockSwap, NoBlockSwap

#: names of the architectures' offloaders
NAMES = ("offloader", "offloader_double", "offloader_single", "offloader_main")


class Offloaders:
    """The offloaders of one transformer, which change their mode together."""

    def __init__(self, transformer: Any):
        self.transformer = transformer
        self.offloaders = [one for name in NAMES if (one := getattr(transformer, name, None)) is not None]
        self.has_modes = all(hasattr(one, "set_forward_only") for one in self.offloaders)
        self._before_each: Any = None

    def for_inference(self) -> None:
        self._set(forward_only=True)

    def for_training(self) -> None:
        self._set(forward_only=False)

    def _set(self, forward_only: bool) -> None:
        if self.has_modes:
            for offloader in self.offloaders:
                offloader.set_forward_only(forward_only)
        elif forward_only and self._before_each is None:
            self._before_each = self.transformer.register_forward_pre_hook(_into_place)
        elif not forward_only and self._before_each is not None:
            self._before_each.remove()
            self._before_each = None
        self.transformer.prepare_block_swap_before_forward()


def _into_place(transformer: Any, given: Any) -> None:
    transformer.prepare_block_swap_before_forward()


def block_swap(transformer: Any, blocks_to_swap: int | None, student_guidance_scale: float) -> BlockSwap:
    """Return the block swap of a run. Raises UserError if it cannot work."""
    if not blocks_to_swap:
        return NoBlockSwap()
    if student_guidance_scale != 1:
        raise UserError(
            f"blocks_to_swap = {blocks_to_swap} does not work with student_guidance_scale = "
            f"{student_guidance_scale:g}, which needs two forwards before a backward. Remove one of them."
        )
    swap = Offloaders(transformer)
    if not swap.offloaders:
        raise UserError(
            f"blocks_to_swap = {blocks_to_swap}: this version of sd-scripts keeps its offloaders in another "
            "place. Remove blocks_to_swap, or check out a tested version."
        )
    return swap

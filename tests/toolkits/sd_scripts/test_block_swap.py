"""Blocks that wait in main memory are in place for every forward, in versions with and without a sampling mode."""

from __future__ import annotations

import torch

from danceopd_ext.toolkits.sd_scripts.block_swap import block_swap


class Offloader2025:
    """Without a mode for sampling."""


class Offloader2026:
    forward_only = False

    def set_forward_only(self, forward_only):
        self.forward_only = forward_only


class Transformer(torch.nn.Module):
    def __init__(self, offloader):
        super().__init__()
        self.offloader, self.prepared = offloader, 0

    def prepare_block_swap_before_forward(self):
        self.prepared += 1

    def forward(self, x):
        return x


def prepared_by(transformer: Transformer, forwards: int) -> int:
    before = transformer.prepared
    for _ in range(forwards):
        transformer(torch.zeros(1))
    return transformer.prepared - before


def test_without_a_mode_the_blocks_are_put_into_place_before_every_forward():
    transformer = Transformer(Offloader2025())
    swap = block_swap(transformer, 2, 1.0)
    for _ in range(2):
        swap.for_inference()
        swap.for_inference()
        assert prepared_by(transformer, 3) == 3
        swap.for_training()
        assert prepared_by(transformer, 1) == 0, "the backward brings them back"


def test_with_a_mode_once_is_enough():
    transformer = Transformer(Offloader2026())
    swap = block_swap(transformer, 2, 1.0)
    swap.for_inference()
    assert transformer.offloader.forward_only
    assert (transformer.prepared, prepared_by(transformer, 3)) == (1, 0)
    swap.for_training()
    assert not transformer.offloader.forward_only

"""Blocks that are quantised and swapped: what travels are the few bits, and no number changes."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from danceopd_ext.engine.block_swap import most_swapped
from danceopd_ext.models.held_linear import HeldLinear
from danceopd_ext.models.number_formats import NUMBER_FORMATS
from danceopd_ext.models.quantising import quantise
from tests.engine.swapped_worlds import BLOCKS, World, deep_transformer, same


@pytest.mark.parametrize("word", NUMBER_FORMATS)
def test_quantised_blocks_can_be_swapped(word):
    """Rollout, teacher, base and gradients with all blocks away are those with all blocks here, to the bit."""
    worlds = [
        World("z_image", deep_transformer(), swapped, change=partial(_quantise, word=word))
        for swapped in (0, most_swapped(BLOCKS))
    ]
    here, swapped = (world.step() for world in worlds)
    assert same(here, swapped)
    assert not same(here, World("z_image", deep_transformer()).step())
    layers = [m for m in worlds[1].blocks[3].modules() if isinstance(m, HeldLinear)]
    assert layers and not any(layer.held.numel() for layer in layers), "a quantised weight stayed on the device"
    assert all(here for _, here, _ in worlds[1].table.rows)


def _quantise(transformer: torch.nn.Module, word: str) -> None:
    for blocks in (transformer.layers, transformer.noise_refiner, transformer.context_refiner):
        quantise(blocks, word, torch.device("cpu"))

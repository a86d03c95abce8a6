"""Block swap finds the offloaders of every architecture beside SD3, which call them by names of their own.

That no block is missing when it runs is held on SD3, whose offloaders are of the same class.
"""

import copy

import pytest
import torch

from danceopd_ext.toolkits.sd_scripts.block_swap import block_swap
from tests.integration.sd_scripts.stand_ins import HERE, MODELS

#: what holds the blocks -> how many of two asked for wait in main memory
WAITING = {
    "flux": {"double": 1, "single": 2},
    "chroma": {"double": 1, "single": 2},
    "lumina": {"main": 2},
    "hunyuan_image": {"double": 1, "single": 2},
    "anima": {"": 2},
}


def deep(model: torch.nn.Module) -> torch.nn.Module:
    """The model with three times as many blocks, so that some can wait."""
    for name in ("double_blocks", "single_blocks", "layers", "blocks"):
        if isinstance(blocks := getattr(model, name, None), torch.nn.ModuleList):
            blocks.extend([copy.deepcopy(block) for block in [*blocks, *blocks]])
            counter = {"blocks": "num_blocks"}.get(name, f"num_{name}")
            if hasattr(model, counter):
                setattr(model, counter, len(blocks))
    return model


@pytest.mark.parametrize("model_type", HERE)
def test_every_offloader_learns_whether_a_backward_follows(model_type):
    model = deep(MODELS[model_type]())
    more = {"supports_backward": True} if model_type == "hunyuan_image" else {}
    model.enable_block_swap(2, torch.device("cpu"), **more)
    offloaders = {part: getattr(model, f"offloader_{part}".rstrip("_")) for part in WAITING[model_type]}
    assert {part: offloader.blocks_to_swap for part, offloader in offloaders.items()} == WAITING[model_type]
    swap = block_swap(model, 2, 1.0)
    swap.for_inference()
    if swap.has_modes:
        assert all(offloader.forward_only for offloader in offloaders.values())
    else:  # 2025: the blocks are put into place before every forward instead
        assert len(model._forward_pre_hooks) == 1
    swap.for_training()
    assert not any(getattr(offloader, "forward_only", False) for offloader in offloaders.values())
    assert len(model._forward_pre_hooks) == 0

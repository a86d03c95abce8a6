"""Block swap watched as a table of which block is where; see probes."""

from __future__ import annotations

from typing import Any

import torch

from danceopd_ext.toolkits.sd_scripts.block_swap import Offloaders


def residents() -> dict[str, Any]:
    """Block swap as a table of which block is where, since on the CPU the real one would mix up weights.

    `missed`: the blocks that ran, forward or backward, while they were away. Others: how often any did.
    """
    from library import custom_offloading_utils as swap

    from tests.integration.sd_scripts.probes import steps

    seen: dict[str, Any] = {"missed": [], **steps()}
    seen |= dict.fromkeys(("moved", "forward", "recomputed", "backward"), 0)
    here: dict[int, bool] = {}

    def move(self, to_cpu, to_device):
        seen["moved"] += 1
        here[id(to_cpu)], here[id(to_device)] = False, True

    def place(self, blocks):
        for number in list(self.futures):
            self._wait_blocks_move(number)
        for number, block in enumerate(blocks):
            here[id(block)] = number < self.num_blocks - self.blocks_to_swap

    def check(block, number, what):
        def hook(*_):
            again = what == "forward" and torch._C._current_graph_task_id() != -1  # by checkpointing, in backward
            name = "recomputed" if again else what
            seen[name] += 1
            if not here[id(block)]:
                seen["missed"].append(f"{name} {number}")

        return hook

    create = swap.ModelOffloader.__init__

    def watched(self, blocks, *more, **named):
        for number, block in enumerate(blocks):
            for part in (block.x_block, block.context_block):
                part.attn.qkv.register_forward_pre_hook(check(block, number, "forward"))
                part.attn.qkv.register_full_backward_pre_hook(check(block, number, "backward"))
        create(self, blocks, *more, **named)

    swap.Offloader.swap_weight_devices = move
    swap.ModelOffloader.prepare_block_devices_before_forward = place
    swap.ModelOffloader.__init__ = watched
    return seen


def residents_left_alone() -> dict[str, Any]:
    """`residents` of a trainer that forgets to tell the offloader what follows."""
    Offloaders._set = lambda self, forward_only: None
    return residents()

"""Makes a teacher's network with musubi's plain network module, which can hold any linear layer of the transformer."""

from __future__ import annotations

import torch

from danceopd_ext.toolkits.hosted.teacher_networks import Maker


def network_maker(transformer: torch.nn.Module) -> Maker:
    """Return the function that makes the teachers' networks on this transformer."""
    from musubi_tuner.networks import lora

    every_module = None  # not only the blocks that a student has

    def make(tensors):
        return lora.create_network_from_weights(every_module, 1.0, tensors, unet=transformer, for_inference=True)

    return make

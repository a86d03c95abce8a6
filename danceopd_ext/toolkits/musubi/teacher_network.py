"""A teacher's network, made by musubi's plain network module: any linear layer of the transformer can be in it."""

from __future__ import annotations

import torch

from danceopd_ext.toolkits.hosted.teacher_networks import Maker


def network_maker(transformer: torch.nn.Module) -> Maker:
    """What makes the networks of teachers on this transformer."""
    from musubi_tuner.networks import lora

    every_module = None  # not only the blocks that a student is put on

    def make(tensors):
        return lora.create_network_from_weights(every_module, 1.0, tensors, unet=transformer, for_inference=True)

    return make

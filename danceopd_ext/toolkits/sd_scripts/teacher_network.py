"""Makes a teacher's network with the architecture's own network module."""

from __future__ import annotations

import importlib
from typing import Any

import torch

from danceopd_ext.toolkits.hosted.architecture import Architecture
from danceopd_ext.toolkits.hosted.seams import unpacked
from danceopd_ext.toolkits.hosted.teacher_networks import Maker


def network_maker(architecture: Architecture, text_encoders: list[Any], transformer: torch.nn.Module) -> Maker:
    """Return the function that makes the teachers' networks on this transformer."""
    module = importlib.import_module(architecture.network_module)

    def make(tensors):
        made = module.create_network_from_weights(
            1.0, None, None, text_encoders, transformer, weights_sd=tensors, for_inference=True
        )
        return unpacked(made, 2, "create_network_from_weights")[0]

    return make

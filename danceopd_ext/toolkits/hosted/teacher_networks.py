"""Puts the teachers' LoRAs on a toolkit's one transformer, as networks of the toolkit.

They never go through accelerator.prepare: they are not trained, and its save hook would confuse one with the student.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from danceopd_ext.config.schema import DanceOPDSection
from danceopd_ext.errors import UserError
from danceopd_ext.toolkits.hosted.architecture import Architecture
from danceopd_ext.toolkits.hosted.teacher_files import (
    host_layout,
    left_out,
    linear_layers,
    network_tensors,
    read_teachers,
)

#: a kohya state dict -> the toolkit's network with its layers and ranks, not yet applied and without its weights
Maker = Callable[[Mapping[str, torch.Tensor]], torch.nn.Module]


def attach_teachers(
    options: DanceOPDSection,
    architecture: Architecture,
    make: Maker,
    transformer: torch.nn.Module,
    device: torch.device,
    dtype: torch.dtype,
    text_encoders: list[Any] | None = None,
) -> dict[str, torch.nn.Module]:
    """Return name -> network, turned off, for each teacher with a LoRA. Call it before the student is applied.

    dtype: the transformer's compute dtype, so that a forward does not cast. Raises UserError naming teacher and file.
    """
    linears = linear_layers(transformer)
    layout = host_layout(architecture.names, architecture.title, linears)
    networks = {}
    for name, lora in read_teachers(options, layout).items():
        tensors = network_tensors(name, lora, layout, linears)
        network = make(tensors)
        _check_complete(f"[danceopd.teachers.{name}] {lora.name}", tensors, network, architecture)
        network.apply_to(text_encoders, transformer, apply_text_encoder=False, apply_unet=True)
        network.load_state_dict(tensors, strict=True)  # creating it reads only the ranks
        network.requires_grad_(False).eval().to(device, dtype)
        network.set_enabled(False)
        networks[name] = network
    return networks


def _check_complete(where: str, tensors: Mapping[str, torch.Tensor], network: Any, architecture: Architecture) -> None:
    missing, count = left_out(tensors, network)
    if missing:
        raise UserError(
            f"{where}: {architecture.network_module} does not support {len(missing)} of its {count} layers, such as "
            f'{missing[0]}. Use a LoRA without them, or toolkit = "native".'
        )

"""Teachers' LoRAs on the toolkit's one transformer, by the toolkit's own network module.

They are never given to accelerator.prepare: they are not trained, and its save hook would take one for the student.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import torch

from danceopd_ext.config.schema import DanceOPDSection
from danceopd_ext.errors import UserError
from danceopd_ext.toolkits.hosted.border import unpacked
from danceopd_ext.toolkits.hosted.teachers import host_layout, left_out, linear_layers, network_tensors, read_teachers
from danceopd_ext.toolkits.sd_scripts.registry import Architecture


def attach_teachers(
    options: DanceOPDSection,
    architecture: Architecture,
    text_encoders: list[Any],
    transformer: torch.nn.Module,
    device: torch.device,
    dtype: torch.dtype,
) -> dict[str, torch.nn.Module]:
    """Name -> silent network of each teacher that has a LoRA; call it before the student is applied.

    dtype: what the transformer computes in, so that a forward casts nothing. Raises UserError naming teacher and file.
    """
    linears = linear_layers(transformer)
    layout = host_layout(architecture.names, architecture.model_type, linears)
    maker = importlib.import_module(architecture.network_module)
    networks = {}
    for name, lora in read_teachers(options, layout).items():
        tensors = network_tensors(name, lora, layout, linears)
        made = maker.create_network_from_weights(
            1.0, None, None, text_encoders, transformer, weights_sd=tensors, for_inference=True
        )
        network, _ = unpacked(made, 2, "create_network_from_weights")
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
            f"{where}: {len(missing)} of {count} layers cannot be held by {architecture.network_module}, such as "
            f'{missing[0]}. Use a LoRA without them, or toolkit = "native".'
        )

"""LoRA teachers as networks of musubi's own, side by side on the one transformer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from danceopd_ext.config.schema import DanceOPDSection
from danceopd_ext.errors import UserError
from danceopd_ext.models.layer_names import LayerNames
from danceopd_ext.toolkits.hosted.teachers import (
    autocast_dtype,
    host_layout,
    left_out,
    linear_layers,
    network_tensors,
    read_teachers,
)


def attach_teachers(
    options: DanceOPDSection, names: LayerNames | None, title: str, transformer: torch.nn.Module, accelerator: Any
) -> dict[str, torch.nn.Module]:
    """Hang every teacher that has a LoRA onto the transformer, silent and frozen: name -> musubi's LoRANetwork.

    It must be called before the student is made and before anything is compiled. The networks are no part of the
    transformer, and must not be given to accelerate, which would save them as the student. Raises UserError where a
    file cannot be read or does not fit the transformer.
    """
    linears = linear_layers(transformer)
    layout = host_layout(names, title, linears)
    dtype = autocast_dtype(accelerator.mixed_precision)
    networks = {}
    for name, lora in read_teachers(options, layout).items():
        tensors = network_tensors(name, lora, layout, linears)
        networks[name] = _attach(name, tensors, transformer).to(accelerator.device, dtype)
        accelerator.print(f"teacher {name}: {len(networks[name].unet_loras)} layers")
    return networks


def _attach(name: str, tensors: Mapping[str, torch.Tensor], transformer: torch.nn.Module) -> torch.nn.Module:
    """musubi's network with these tensors on the transformer. Any linear layer of it can be in them."""
    from musubi_tuner.networks import lora as musubi_lora

    every_module = None  # not only the blocks that a student is put on
    network = musubi_lora.create_network_from_weights(
        every_module, 1.0, tensors, unet=transformer, for_inference=True
    )  # fmt: skip
    _check_complete(name, network, tensors)
    network.apply_to(None, transformer, apply_text_encoder=False, apply_unet=True)
    network.load_state_dict(tensors, strict=True)
    network.requires_grad_(False)
    network.eval()
    network.set_enabled(False)
    return network


def _check_complete(name: str, network: Any, tensors: Mapping[str, torch.Tensor]) -> None:
    lost, count = left_out(tensors, network)
    if lost:
        raise UserError(
            f"[danceopd.teachers.{name}] {len(lost)} of its {count} layers are not in musubi-tuner's model, for "
            f"example {', '.join(lost[:5])}. Use a LoRA made for exactly the base model that you train."
        )

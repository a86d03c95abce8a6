"""Turns weights that were saved in 8 bits back into numbers: plain fp8, and fp8 with a scale for each layer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from danceopd_ext.errors import UserError

FP8 = (torch.float8_e4m3fn, torch.float8_e5m2)
#: endings of a layer's scale: ComfyUI's of 2025 (and musubi's), and ComfyUI's since
SCALES = (".scale_weight", ".weight_scale")
#: endings of what only ComfyUI's own kernels need: the scale of the inputs, and the format's name
EXTRAS = (".scale_input", ".input_scale", ".comfy_quant")
#: the name of a tensor without numbers that marks a file of scaled weights
MARK = "scaled_fp8"
#: the ending of a second scale, which only 4-bit formats have
FOUR_BITS = ".weight_scale_2"


def plain_names(path: Path, names: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Return the tensors that `dequantised` gives: name -> sizes. Raises UserError for weights of 4 bits."""
    if found := next((name for name in names if name.endswith(FOUR_BITS)), None):
        raise UserError(
            f"{path}: {found.removesuffix(FOUR_BITS)} is quantised to 4 bits, which only ComfyUI reads. Use the fp8, "
            "fp16 or bf16 version of the file."
        )
    return {name: shape for name, shape in names.items() if not name.endswith((*SCALES, *EXTRAS)) and name != MARK}


def dequantised(path: Path, tensors: Mapping[str, torch.Tensor], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Return the weights without their scales; those of 8 bits become `dtype`, the others stay as they are.

    A scale is one number, one for each output [outputs, 1], or one for each block of inputs [outputs, blocks, 1].
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    plain = {}
    for name in plain_names(path, shapes):
        weight = tensors[name]
        layer = name.removesuffix(".weight")
        scale = next((tensors[layer + end] for end in SCALES if layer + end in tensors), None)
        if scale is not None and weight.dtype in FP8:
            blocks = weight.float().unflatten(1, (scale.shape[1], -1)) if scale.ndim == 3 else weight.float()
            weight = (blocks * scale.float()).reshape(weight.shape).to(dtype)
        plain[name] = weight.to(dtype) if weight.dtype in FP8 else weight
    return plain

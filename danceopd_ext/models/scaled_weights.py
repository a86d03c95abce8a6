"""Turns 8-bit weights of text encoders and VAEs back into numbers: plain float8, and float8 with scales."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from danceopd_ext.errors import UserError
from danceopd_ext.models.quantised_files import FLOAT8, SCALES, SECOND_SCALES, UNUSED, WEIGHT, times_scale

#: how the number formats begin, in the words of a file's header, that a weight can be read from
FLOATS = ("F", "BF")


def plain_names(
    path: Path, shapes: Mapping[str, tuple[int, ...]], kinds: Mapping[str, str]
) -> dict[str, tuple[int, ...]]:
    """Return the tensors that `dequantised` gives: name -> sizes.

    shapes, kinds: of the file's header. Raises UserError for weights of 4 bits or in whole numbers.
    """
    for name in shapes:
        layer = name.removesuffix(WEIGHT)
        second = any(layer + end in shapes for end in SECOND_SCALES)
        if name.endswith(WEIGHT) and (second or not kinds.get(name, "F").startswith(FLOATS)):
            raise UserError(
                f"{path}: {name} is in a number format that only ComfyUI computes with (such as nvfp4 or int8). Use a "
                "version of the file in bf16, fp16 or fp8."
            )
    return {name: size for name, size in shapes.items() if not name.endswith((*SCALES, *UNUSED))}


def dequantised(path: Path, tensors: Mapping[str, torch.Tensor], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Return the weights without their scales; those in float8 become `dtype`, the others stay as they are.

    Raises UserError as `plain_names` and `times_scale` do.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    plain = {}
    for name in plain_names(path, shapes, {}):
        weight = tensors[name]
        layer = name.removesuffix(WEIGHT)
        scale = next((tensors[layer + end] for end in SCALES if layer + end in tensors), None)
        if scale is not None and weight.dtype in FLOAT8:
            weight = times_scale(path, name, weight, scale).to(dtype)
        plain[name] = weight.to(dtype) if weight.dtype in FLOAT8 else weight
    return plain

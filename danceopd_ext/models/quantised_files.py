"""Reads single files whose weights are quantised already: float8, plain or scaled as ComfyUI writes it, and GGUF.

A float8 weight stays in float8 (see held_linear.py). ComfyUI's scale of it is a tensor beside it, `scale_weight` or
`weight_scale`; `scaled_fp8`, `input_scale` and the like are for programs that multiply in float8, which is not done
here.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from danceopd_ext.errors import UserError
from danceopd_ext.foreign.tensors import read_tensors
from danceopd_ext.models.held_linear import FP8
from danceopd_ext.models.layout import Layout

WEIGHT = ".weight"
#: endings of the scales of a layer's weight
SCALES = (".scale_weight", ".weight_scale")
#: endings of what only multiplication in float8 needs
UNUSED = ("scaled_fp8", ".scale_input", ".input_scale", ".comfy_quant")
#: endings of second scales, which ComfyUI's 4-bit formats have
SECOND_SCALES = (".weight_scale_2",)
FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2)

Tensors = dict[str, torch.Tensor]


def as_float8(
    path: Path, weights: str | Tensors, layout: Callable[[], Layout], dtype: torch.dtype
) -> tuple[str | Tensors, Tensors | None]:
    """Return (weights, scales) of a single file: what diffusers loads, and diffusers layer -> scale of its weight.

    `weights`: the path, or tensors of it by the names that diffusers knows. The scales are None for a file without
    float8 weights. A weight in float8 whose scale cannot follow it through diffusers' conversion of names becomes
    `dtype`. Raises UserError for a file in a number format that cannot be computed with.
    """
    tensors = read_tensors(path, "checkpoint")[0] if isinstance(weights, str) else weights
    _check_kinds(path, tensors)
    if not any(tensor.dtype in FLOAT8 for tensor in tensors.values()):
        return weights, None
    kept: Tensors = {}
    scales: Tensors = {}
    for name, tensor in tensors.items():
        if name.endswith((*SCALES, *UNUSED)):
            continue
        scale = _scale_of(tensors, name)
        if scale is not None and tensor.dtype in FLOAT8:
            layers = _diffusers_layers(layout(), name.removesuffix(WEIGHT))
            if tensor.dtype == FP8.kind and scale.numel() == 1 and layers:
                scales |= dict.fromkeys(layers, scale.float().reshape(()))
            else:
                tensor = times_scale(path, name, tensor, scale).to(dtype)
        kept[name] = tensor
    return kept, scales


def _scale_of(tensors: Tensors, name: str) -> torch.Tensor | None:
    layer = name.removesuffix(WEIGHT)
    return next((tensors[layer + end] for end in SCALES if layer + end in tensors), None) if layer != name else None


def _diffusers_layers(layout: Layout, layer: str) -> tuple[str, ...]:
    """The diffusers layers of a layer in a file, of either kind of names; empty if it is not known."""
    return layout.native.get(layer) or ((layer,) if layer in layout.shapes else ())


def times_scale(path: Path, name: str, weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Return a float8 weight's numbers times their scale, in float32.

    A scale is one number, one for each output [outputs] or [outputs, 1], or one for each block of inputs
    [outputs, blocks, 1]. Raises UserError for another number of scales.
    """
    outputs, blocks = weight.shape[0], scale.shape[1] if scale.ndim == 3 else 1
    if scale.numel() not in (1, outputs * blocks) or weight[0].numel() % blocks:
        raise UserError(f"{path}: the scale of {name} is {tuple(scale.shape)} for a weight of {tuple(weight.shape)}.")
    shape = (1, 1, 1) if scale.numel() == 1 else (outputs, blocks, 1)
    return (weight.float().reshape(outputs, blocks, -1) * scale.float().reshape(shape)).reshape(weight.shape)


def _check_kinds(path: Path, tensors: Tensors) -> None:
    """Raise UserError for weights in a number format of 4 bits, or in whole numbers, which diffusers would misread."""
    for name, tensor in tensors.items():
        second = any(name.removesuffix(WEIGHT) + end in tensors for end in SECOND_SCALES)
        if name.endswith(WEIGHT) and (second or not tensor.is_floating_point()):
            raise UserError(
                f"{path}: {name} is in a number format that cannot be trained on (such as nvfp4 or int8). Use a "
                "version of the file in bf16, fp16, fp8 or GGUF."
            )

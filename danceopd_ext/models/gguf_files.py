"""Reads a transformer from a GGUF file: its tensor names before it is loaded, and its layers afterwards.

diffusers reads the file and converts its names. Its layers are then made our own, which need less memory in the
gradient pass and move like any other. Header values are not used; only tensors are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from danceopd_ext.errors import UserError
from danceopd_ext.foreign.gguf_header import read_gguf_names
from danceopd_ext.models.held_linear import HeldLinear, NumberFormat, place

SUFFIX = ".gguf"


def is_gguf(path: Path) -> bool:
    """Return whether a file is a GGUF file, by its name."""
    return path.suffix.lower() == SUFFIX


def gguf_names(path: Path) -> list[str]:
    """Return the tensor names of a GGUF file. Raises UserError if it is damaged, or if the package is missing."""
    if find_spec("gguf") is None:
        raise UserError(f"{path}: GGUF files need the package gguf: pip install gguf.")
    return read_gguf_names(path)


@dataclass(frozen=True)
class Ggml(NumberFormat):
    """One of the formats of GGUF. `kind`: its number."""

    kind: int
    parts = ("held",)

    @property
    def name(self) -> str:
        from gguf import GGMLQuantizationType

        return f"GGUF {GGMLQuantizationType(self.kind).name}"

    def unpack(self, parts: Sequence[torch.Tensor], shape: tuple[int, int], dtype: torch.dtype) -> torch.Tensor:
        from diffusers.quantizers.gguf.utils import GGML_QUANT_SIZES, dequantize_functions

        held = parts[0]
        values, size = GGML_QUANT_SIZES[self.kind]
        return dequantize_functions[self.kind](held.reshape(-1, size), values, size).reshape(shape).to(dtype)


def gguf_configuration(dtype: torch.dtype) -> Any:
    """Return what makes diffusers load a GGUF file."""
    from diffusers import GGUFQuantizationConfig

    return GGUFQuantizationConfig(compute_dtype=dtype)


def hold_gguf(model: torch.nn.Module, dtype: torch.dtype) -> None:
    """Replace diffusers' layers of a loaded GGUF file by ours.

    What is quantised outside of linear layers becomes `dtype`.
    """
    from diffusers.quantizers.gguf.utils import GGUFLinear, GGUFParameter, dequantize_gguf_tensor

    for name, layer in [(name, one) for name, one in model.named_modules() if isinstance(one, GGUFLinear)]:
        weight = layer.weight
        shape = (layer.out_features, layer.in_features)
        bias = None if layer.bias is None else torch.nn.Parameter(_plain(layer.bias, dtype), requires_grad=False)
        form = Ggml(int(weight.quant_type))
        held = weight.as_tensor().detach().contiguous().view(torch.uint8)
        place(model, name, HeldLinear(form, (held,), shape, bias, dtype))
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if isinstance(parameter, GGUFParameter):
                value = dequantize_gguf_tensor(parameter).to(dtype)
                setattr(module, name, torch.nn.Parameter(value, requires_grad=False))
    model.is_quantized = False  # diffusers would refuse to move it


def _plain(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    from diffusers.quantizers.gguf.utils import dequantize_gguf_tensor

    return dequantize_gguf_tensor(tensor).detach().to(dtype)

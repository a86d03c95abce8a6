"""Quantises linear layers: of a transformer while diffusers loads it, of text encoders once they are loaded.

diffusers hands each tensor to a quantizer as it reads it, so a model never lies in main memory unquantised. Layers
outside of the blocks (embedders and the last layers: few weights, to which the velocity is sensitive) stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from importlib.util import find_spec
from typing import Any

import torch
from diffusers.quantizers import auto
from diffusers.quantizers.base import DiffusersQuantizer

from danceopd_ext.errors import UserError, first_line
from danceopd_ext.finite import is_finite
from danceopd_ext.models.held_linear import FP8, PACKINGS, HeldLinear, Packing, place
from danceopd_ext.models.layout import is_outer

#: the largest relative error of a weight in nf4, the coarsest of the number formats
COARSEST = 0.2


def check_quantisation(word: str, device: torch.device, key: str) -> None:
    """Raise UserError, which names `key`, unless the number format of this word works on the device."""
    if word == "nf4" and find_spec("bitsandbytes") is None:
        raise UserError(f'{key} = "nf4" needs bitsandbytes: pip install bitsandbytes. Or use "int8".')
    weight = torch.linspace(-1, 1, 64 * 64).reshape(64, 64)
    try:
        form = PACKINGS[word]
        parts = form.pack(weight.to(device))
        found = form.unpack(parts, tuple(weight.shape), torch.float32).cpu()
        error = float((found - weight).norm() / weight.norm())
    except Exception as error_here:  # whatever a package or a device without this number format raises
        raise UserError(
            f'{key} = "{word}" does not work on this device ({device.type}): {first_line(error_here)}. '
            f"Use {_others(word)}, or leave it out."
        ) from error_here
    if not error < COARSEST:
        raise UserError(f'{key} = "{word}" gives wrong numbers on this device ({device.type}). Use {_others(word)}.')


def _others(word: str) -> str:
    return " or ".join(f'"{other}"' for other in reversed(PACKINGS) if other != word)


def quantise(module: torch.nn.Module, word: str, device: torch.device) -> None:
    """Quantise every linear layer of a module in place, one by one; what they hold stays on the module's device."""
    layers = [(name, one) for name, one in module.named_modules() if type(one) is torch.nn.Linear]
    for name, layer in layers:
        place(module, name, _held(layer, layer.weight, layer.weight.dtype, PACKINGS[word], device))


@torch.no_grad()
def _held(
    layer: torch.nn.Linear, weight: torch.Tensor, dtype: torch.dtype, form: Packing, device: torch.device
) -> HeldLinear:
    """The layer with its weight packed on `device`, which is faster than the CPU, and held where the weight was."""
    parts = [part.to(weight.device) for part in form.pack(weight.to(device, dtype))]
    return HeldLinear(form, parts, tuple(weight.shape), layer.bias, dtype)


class Method(str, Enum):
    """The name under which diffusers finds the quantizer."""

    HELD = "danceopd_ext"


@dataclass
class Holding:
    """What diffusers passes on to the quantizer. `word`: of `quantize`, None to hold only what the file quantises.

    `device`: where weights are packed. `in_float8`: whether the file has float8 weights. `scales`: linear layer -> the
    scale of its float8 weight, 1 if it has none.
    """

    word: str | None
    dtype: torch.dtype
    device: torch.device
    in_float8: bool = False
    scales: Mapping[str, torch.Tensor] = field(default_factory=dict)
    quant_method = Method.HELD

    def to_dict(self) -> dict[str, Any]:
        """Return what diffusers tells the hub about the quantisation."""
        return {"quant_method": self.quant_method.value, "word": self.word}


class HoldingQuantizer(DiffusersQuantizer):
    """Makes a HeldLinear of each linear layer in the blocks, and of each whose weight the file has in float8."""

    is_serializable = False
    is_trainable = True

    def __init__(self, quantization_config: Holding, **kwargs: Any) -> None:
        super().__init__(quantization_config, **kwargs)
        self.how = quantization_config
        self.broken: str | None = None
        """The first float8 weight with NaN."""

    def check_if_quantized_param(
        self, model: torch.nn.Module, param_value: torch.Tensor, param_name: str, state_dict: Mapping, **kwargs: Any
    ) -> bool:
        if param_value.dtype == FP8.kind:
            return True  # diffusers would leave it in float8
        layer, _, kind = param_name.rpartition(".")
        return bool(self.how.word) and kind == "weight" and not is_outer(layer) and _is_linear(model, layer)

    def create_quantized_param(
        self, model: torch.nn.Module, param_value: torch.Tensor, param_name: str, *args: Any, **kwargs: Any
    ) -> None:
        layer, _, kind = param_name.rpartition(".")
        form = PACKINGS[self.how.word] if self.how.word and not is_outer(layer) else None
        in_float8 = param_value.dtype == FP8.kind
        if in_float8 and not is_finite(param_value):
            self.broken = self.broken or param_name
        scale = self.how.scales.get(layer, torch.ones(())) if in_float8 and kind == "weight" else torch.ones(())
        if kind == "weight" and _is_linear(model, layer):
            linear = model.get_submodule(layer)
            if in_float8 and form in (None, FP8):  # as it is in the file
                parts = (FP8.held(param_value), scale.float())
                held = HeldLinear(FP8, parts, tuple(param_value.shape), linear.bias, self.how.dtype)
            else:
                weight = param_value.float() * scale if in_float8 else param_value
                held = _held(linear, weight, self.how.dtype, form, self.how.device)
            place(model, layer, held)
            return
        value = (param_value.float() * scale).to(self.how.dtype)
        setattr(model.get_submodule(layer), kind, torch.nn.Parameter(value, requires_grad=False))

    def _process_model_before_weight_loading(self, model: torch.nn.Module, **kwargs: Any) -> None: ...

    def _process_model_after_weight_loading(self, model: torch.nn.Module, **kwargs: Any) -> None: ...


def let_go(model: torch.nn.Module) -> str | None:
    """Return the first float8 weight with NaN, and take the quantizer, which is done, from the model."""
    quantizer = getattr(model, "hf_quantizer", None)
    if not isinstance(quantizer, HoldingQuantizer):
        return None
    del model.hf_quantizer
    model.is_quantized = False  # diffusers would refuse to move it
    return quantizer.broken


def _is_linear(model: torch.nn.Module, layer: str) -> bool:
    return bool(layer) and type(model.get_submodule(layer)) is torch.nn.Linear


# diffusers finds a quantizer by the method that its configuration names
auto.AUTO_QUANTIZER_MAPPING[Method.HELD] = HoldingQuantizer

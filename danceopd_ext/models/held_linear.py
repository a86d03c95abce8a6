"""Linear layers whose frozen weight is held in fewer bits than it is computed in.

A weight is unpacked when its layer is called, and again in the backward pass, so that no unpacked weight waits between
them. What is held are plain tensors: they move to a device, are swapped and are counted like any other weight.

One layer serves every number format, also those of files that are quantised already, and peft's LoRA layers wrap it
like any linear layer. Measured on layers of trained transformers, scaled rows of int8 and fp8 err as torchao's and
SDNQ's weight-only formats do (0.8 % and 2.6 % of the output); diffusers' layerwise casting to fp8 has no scale and
also casts the adapters.

Shape suffixes: O outputs, I inputs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from danceopd_ext.models.number_formats import NUMBER_FORMATS

#: values of a block of nf4 that share a scale
BLOCK = 64


class NumberFormat(ABC):
    """How a weight is held. `name`: as in messages. `parts`: the names of the tensors that hold it, one or two."""

    name: str
    parts: tuple[str, ...]

    @abstractmethod
    def unpack(self, parts: Sequence[torch.Tensor], shape: tuple[int, int], dtype: torch.dtype) -> torch.Tensor:
        """Return the weight [O, I]."""


class Packing(NumberFormat):
    """A number format that weights can be brought into here."""

    @abstractmethod
    def pack(self, weight_OI: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the tensors that hold the weight."""


@dataclass(frozen=True)
class Scaled(Packing):
    """Numbers of 8 bits with a float32 scale for each output, or one for all. `kind`: torch.int8 or a float8 type.

    Float8 numbers are held as uint8, so that code that casts or looks for floating-point weights passes them by.
    """

    name: str
    kind: torch.dtype
    parts = ("held", "scale")

    def pack(self, weight_OI: torch.Tensor) -> tuple[torch.Tensor, ...]:
        weight = weight_OI.float()
        scale = weight.abs().amax(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny) / self._largest
        scaled = weight / scale
        return self.held((scaled.round() if self.kind == torch.int8 else scaled).to(self.kind)), scale

    def held(self, numbers_OI: torch.Tensor) -> torch.Tensor:
        """Return numbers of this kind as they are held."""
        return numbers_OI if self.kind == torch.int8 else numbers_OI.contiguous().view(torch.uint8)

    def unpack(self, parts: Sequence[torch.Tensor], shape: tuple[int, int], dtype: torch.dtype) -> torch.Tensor:
        held, scale = parts
        return held.view(self.kind).to(dtype).mul_(scale)  # the product is rounded once

    @property
    def _largest(self) -> float:
        return 127.0 if self.kind == torch.int8 else torch.finfo(self.kind).max


@dataclass(frozen=True)
class NormalFloat(Packing):
    """bitsandbytes' nf4: 4 bits with a scale for each block of 64 (Dettmers et al., 2023, arXiv 2305.14314).

    Scales are held in bfloat16: its rounding (0.2 %) is far below that of 4 bits.
    """

    name: str = "nf4"
    parts = ("held", "scale")

    def pack(self, weight_OI: torch.Tensor) -> tuple[torch.Tensor, ...]:
        from bitsandbytes import functional as bnb  # here: optional, and it takes seconds to import

        held, state = bnb.quantize_4bit(weight_OI.contiguous(), blocksize=BLOCK, quant_type="nf4")
        return held, state.absmax.to(torch.bfloat16)

    def unpack(self, parts: Sequence[torch.Tensor], shape: tuple[int, int], dtype: torch.dtype) -> torch.Tensor:
        from bitsandbytes import functional as bnb

        held, scale = parts
        count = shape[0] * shape[1]
        flat = torch.Size((count + count % 2,))  # for rows of odd length, it would compile a slower kernel
        state = bnb.QuantState(scale.float(), flat, blocksize=BLOCK, quant_type="nf4", dtype=dtype)
        return bnb.dequantize_4bit(held, state).flatten()[:count].reshape(shape)


INT8 = Scaled("int8", torch.int8)
FP8 = Scaled("fp8", torch.float8_e4m3fn)

#: the words of `quantize` -> the number format
PACKINGS: Mapping[str, Packing] = dict(zip(NUMBER_FORMATS, (NormalFloat(), INT8, FP8), strict=True))


class HeldLinear(torch.nn.Linear):
    """A frozen linear layer whose weight is held in a number format. `dtype`: what its weight is unpacked to."""

    #: whether `weight` is only looked at (see `weights_only_looked_at`)
    looked_at = False

    def __init__(
        self,
        form: NumberFormat,
        parts: Sequence[torch.Tensor],
        shape: tuple[int, int],
        bias: torch.nn.Parameter | None,
        dtype: torch.dtype,
    ) -> None:
        torch.nn.Module.__init__(self)  # nn.Linear's own would make a weight
        self.out_features, self.in_features = shape
        self.form, self.dtype = form, dtype
        for name, part in zip(form.parts, parts, strict=True):
            self.register_parameter(name, torch.nn.Parameter(part, requires_grad=False))
        self.register_parameter("bias", bias)

    @property
    def held_parts(self) -> tuple[torch.Tensor, ...]:
        return tuple(getattr(self, name) for name in self.form.parts)

    @property
    def weight(self) -> torch.Tensor:
        """Return the weight [O, I]. It is unpacked anew each time, and no copy of it is kept."""
        if HeldLinear.looked_at:
            return torch.full((), float("nan"), dtype=self.dtype, device=self.device).expand(self._shape)
        return self.form.unpack(self.held_parts, self._shape, self.dtype)

    @property
    def device(self) -> torch.device:
        return self.held_parts[0].device

    @property
    def _shape(self) -> tuple[int, int]:
        return self.out_features, self.in_features

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kind = x.device.type
        if torch.is_autocast_enabled(kind):
            x = x.to(torch.get_autocast_dtype(kind))
        bias = None if self.bias is None else self.bias.to(x.dtype)
        held, scale = (*self.held_parts, None)[:2]
        return _Unpacked.apply(x, bias, self.form, self._shape, held, scale)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, held in {self.form.name}"


class _Unpacked(torch.autograd.Function):
    """x @ weight.T + bias, with a gradient for x alone, which needs neither x nor the unpacked weight to be kept.

    `held`, `scale`: the parts; a format without scales has None. (torch.compile follows no variable number of them.)
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, bias: Any, form: NumberFormat, sizes: tuple, held: torch.Tensor, scale: Any):
        ctx.form, ctx.sizes = form, sizes
        ctx.save_for_backward(held, scale)
        return functional.linear(x, form.unpack((held, scale), sizes, x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple:
        weight = ctx.form.unpack(ctx.saved_tensors, ctx.sizes, grad.dtype)  # gradient checkpointing allows one look
        return grad @ weight, None, None, None, None, None


@contextmanager
def weights_only_looked_at() -> Iterator[None]:
    """Give the weights of held layers inside the block their dtype, shape and device, but no numbers (NaN).

    For code that only looks at these, many times: peft would unpack each weight twenty times to wrap its layer.
    """
    before, HeldLinear.looked_at = HeldLinear.looked_at, True
    try:
        yield
    finally:
        HeldLinear.looked_at = before


def place(module: torch.nn.Module, layer: str, new: torch.nn.Module) -> None:
    """Put `new` in the place of the layer of this name."""
    parent, _, child = layer.rpartition(".")
    setattr(module.get_submodule(parent), child, new)

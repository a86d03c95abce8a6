"""How many bytes weights take: of the base with its quantisation and swap, of the student and its optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from danceopd_ext.engine.block_swap import on_device, travelling
from danceopd_ext.models.family import Family
from danceopd_ext.models.layout import is_outer
from danceopd_ext.planning.blueprint import bytes_of

#: words of `quantize` -> bytes per number and bytes of scales: for each output, and for each number
HELD = {"int8": (1.0, 4.0, 0.0), "fp8": (1.0, 4.0, 0.0), "nf4": (0.5, 0.0, 2 / 64)}

#: optimizer -> bytes of state per trained number, as its source keeps them: float32 moments, or 8 bits and their scales
#: (a float32 for each block of 256)
STATE = {
    "adamw": 8.0,
    "adamw8bit": 2 + 8 / 256,
    "pagedadamw8bit": 2 + 8 / 256,
    "pagedadamw": 8.0,
    "pagedadamw32bit": 8.0,
    "lion": 4.0,
    "lion8bit": 1 + 4 / 256,
    "pagedlion8bit": 1 + 4 / 256,
    "sgdnesterov": 4.0,
    "sgdnesterov8bit": 1 + 4 / 256,
    "adafactor": 0.1,
    "prodigy": 16.0,
    "adamwschedulefree": 8.0,
    "radamschedulefree": 8.0,
    "sgdschedulefree": 4.0,
}
#: of an optimizer that is not in the table
USUAL_STATE = 8.0
#: what torch's AdamW computes on the way, in float32: the square roots of its second moments
ON_THE_WAY = {"adamw": 4.0}


@dataclass(frozen=True)
class Base:
    """The frozen transformer. `device`: bytes of it on the GPU at a time; `main`: bytes that stay in main memory.

    `unpacked`: bytes of its largest layer in the dtype of the computation, if layers are quantised. `traffic`: bytes
    that unpacking moves in a forward. `travels`: bytes that are copied to the GPU in a forward.
    """

    device: int
    main: int = 0
    unpacked: int = 0
    traffic: int = 0
    travels: int = 0


@dataclass(frozen=True)
class Held:
    """The base as it is held, before blocks are swapped. `blocks`: bytes of each, in the order of computation."""

    whole: int
    blocks: tuple[int, ...]
    unpacked: int
    traffic: int

    def swapped(self, count: int) -> Base:
        """Return what the base takes with this `blocks_to_swap`."""
        if not count:
            return Base(self.whole, 0, self.unpacked, self.traffic)
        moving = sum(self.blocks[number] for number in travelling(len(self.blocks), count))
        device = self.whole - sum(self.blocks) + on_device(self.blocks, count)
        return Base(device, moving, self.unpacked, self.traffic, moving)


def held_of(family: Family, transformer: torch.nn.Module, dtype: torch.dtype, quantize: str | None = None) -> Held:
    """Return how the base is held; `transformer`: on the meta device."""
    linears = [m for name, m in transformer.named_modules() if _is_held(name, m)] if quantize else []
    numbers = [linear.weight.numel() for linear in linears]
    per_number = HELD[quantize][0] + 2 * dtype.itemsize if quantize else 0
    return Held(
        held_bytes(transformer, dtype, quantize),
        tuple(held_bytes(block, dtype, quantize, inside=True) for block in family.repeated_blocks(transformer)),
        max(numbers, default=0) * dtype.itemsize,
        int(sum(numbers) * per_number),
    )


def held_bytes(module: torch.nn.Module, dtype: torch.dtype, quantize: str | None = None, inside: bool = False) -> int:
    """Return the bytes of a module with the linear layers of its blocks quantised; `inside`: it is a block."""
    total = bytes_of(module, dtype)
    for name, linear in module.named_modules() if quantize else ():
        if isinstance(linear, torch.nn.Linear) and (inside or not is_outer(name)):
            number, output, share = HELD[quantize]
            outputs, inputs = linear.weight.shape
            total += int(outputs * inputs * (number + share) + outputs * output) - outputs * inputs * dtype.itemsize
    return total


def _is_held(name: str, module: torch.nn.Module) -> bool:
    return isinstance(module, torch.nn.Linear) and not is_outer(name)


def student_numbers(shapes: Mapping[str, tuple[int, int]], layers: Mapping[str, int]) -> int:
    """Return how many numbers a LoRA has; `shapes`: layer -> (outputs, inputs), `layers`: layer -> rank."""
    return sum(rank * sum(shapes[layer]) for layer, rank in layers.items())


def state_bytes(optimizer: str, numbers: int) -> int:
    """Return the bytes of an optimizer's state."""
    return int(STATE.get(optimizer.lower(), USUAL_STATE) * numbers)


def step_bytes(optimizer: str, numbers: int) -> int:
    """Return the bytes that an optimizer needs on the way."""
    return int(ON_THE_WAY.get(optimizer.lower(), 0.0) * numbers)

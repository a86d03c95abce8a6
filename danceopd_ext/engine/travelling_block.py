"""Keeps the frozen weights of one block in main memory, and brings them to the device while the block computes.

The weights are treated as bytes, whatever their type: a plain tensor, a tensor subclass of a quantiser (its inner
tensors, as `__tensor_flatten__` names them), or the packed data of a 4-bit parameter.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from peft.tuners.tuners_utils import BaseTunerLayer

#: bytes: each weight starts at a multiple of it, as the kernels of all devices want
ALIGNMENT = 256


class Mover(Protocol):
    """Moves the bytes of a block. `start` may return before they have arrived; `arrive` makes the device wait."""

    def keep(self, size: int) -> torch.Tensor:
        """Return `size` bytes of main memory, from which the device can copy quickly."""

    def start(self, there: torch.Tensor, here: torch.Tensor) -> Any:
        """Give `there`, a tensor of the device, its memory, and start the copy of `here`. Returns a ticket."""

    def arrive(self, ticket: Any) -> None:
        """Let what is computed from now on wait for the copy."""

    def free(self, there: torch.Tensor) -> None:
        """Give the memory of `there` back."""


@dataclass(frozen=True)
class Place:
    """One tensor of the block: what it is while the block is here, away, and in main memory."""

    tensor: torch.Tensor
    here: torch.Tensor
    away: torch.Tensor
    kept: torch.Tensor


class TravellingBlock:
    """A block whose base weights are on the device only between `start` and `drop`; its adapters stay there.

    While the block is away its weights have no elements, so that computing with them raises RuntimeError instead of
    giving wrong numbers. All visits use one storage, so an autograd function that kept a view of a weight (as 4-bit
    layers do) finds it there again when the block is brought back for the gradient.
    """

    def __init__(self, block: torch.nn.Module, device: torch.device, mover: Mover) -> None:
        self.mover = mover
        block.to(device)
        tensors = list(base_tensors(block))
        starts, size = _starts(tensors)
        self.size = size
        self._kept = mover.keep(size)
        self._here = torch.empty(size, dtype=torch.uint8, device=device)
        self.places = [
            Place(tensor, _view(self._here, start, tensor), _nothing(tensor), _view(self._kept, start, tensor))
            for tensor, start in zip(tensors, starts, strict=True)
        ]
        for place in self.places:
            place.kept.copy_(place.tensor)
        self._ticket: Any = None
        self.drop()

    @property
    def on_device(self) -> int:
        """How many bytes of the device the block has now."""
        return self._here.untyped_storage().nbytes()

    def start(self) -> None:
        """Start to bring the weights to the device."""
        self._ticket = self.mover.start(self._here, self._kept)

    def arrive(self) -> None:
        """Wait for the weights and put them in place."""
        self.mover.arrive(self._ticket)
        self._point("here")

    def drop(self) -> None:
        """Take the weights off the device; main memory has them."""
        self._point("away")
        self.mover.free(self._here)

    def read(self) -> None:
        """Let the weights be read in main memory, where the block must not compute, until the next `drop`."""
        self._point("kept")

    def _point(self, where: str) -> None:
        for place in self.places:
            place.tensor.data = getattr(place, where)


def base_tensors(block: torch.nn.Module) -> Iterator[torch.Tensor]:
    """Yield the plain tensors that hold the block's base weights and buffers, without those of adapters."""
    seen: set[int] = set()
    for module in _base_modules(block):
        own = (*module.parameters(recurse=False), *module.buffers(recurse=False))
        for tensor in (plain for one in own for plain in _plain(one)):
            if id(tensor) not in seen:
                seen.add(id(tensor))
                yield tensor


def _base_modules(module: torch.nn.Module) -> Iterator[torch.nn.Module]:
    if isinstance(module, BaseTunerLayer):
        yield from _base_modules(module.base_layer)
        return
    yield module
    for child in module.children():
        yield from _base_modules(child)


def _plain(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    if not hasattr(type(tensor), "__tensor_flatten__"):
        yield tensor
        return
    names, _ = tensor.__tensor_flatten__()
    for name in names:
        yield from _plain(getattr(tensor, name))


def _starts(tensors: list[torch.Tensor]) -> tuple[list[int], int]:
    """Where each tensor's bytes start, and how many bytes all of them take."""
    starts, size = [], 0
    for tensor in tensors:
        starts.append(size)
        size += -(-tensor.numel() * tensor.element_size() // ALIGNMENT) * ALIGNMENT
    return starts, size


def _view(flat: torch.Tensor, start: int, like: torch.Tensor) -> torch.Tensor:
    """The bytes of `flat` from `start` on, as a tensor of the shape, strides and dtype of `like`."""
    values = flat[start : start + like.numel() * like.element_size()].view(like.dtype)
    # a tensor with gaps or repeated elements is stored without them
    return values.as_strided(like.shape, torch.empty_like(like, device="meta").stride())


def _nothing(like: torch.Tensor) -> torch.Tensor:
    return torch.empty(0, dtype=like.dtype, device=like.device)

"""Copies the weights of swapped blocks to a device, on a stream of their own where the device has streams."""

from __future__ import annotations

import weakref
from contextlib import suppress
from typing import Any

import torch

from danceopd_ext.engine.travelling_block import Mover

#: devices with memory of their own, to which weights are copied while they compute
WITH_STREAMS = ("cuda", "xpu")


def can_swap(device: torch.device) -> bool:
    """Return whether the device has memory of its own, so that keeping weights in main memory saves some."""
    return device.type in WITH_STREAMS


def mover_for(device: torch.device) -> Mover:
    """Return the mover of a device."""
    return StreamMover(device) if can_swap(device) else PlainMover()


class PlainMover:
    """Copies at once. For tests, and for devices without streams."""

    def keep(self, size: int) -> torch.Tensor:
        return torch.empty(size, dtype=torch.uint8)

    def start(self, there: torch.Tensor, here: torch.Tensor) -> Any:
        there.untyped_storage().resize_(len(here))
        there.copy_(here)

    def arrive(self, ticket: Any) -> None:
        """Nothing to wait for."""

    def free(self, there: torch.Tensor) -> None:
        there.untyped_storage().resize_(0)


class StreamMover(PlainMover):
    """Copies on a stream of its own.

    The memory of a block comes from that stream's pool, and every copy first waits for what the device was asked to
    compute before. So the memory of a dropped block can be used again at once, although the device is behind.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.backend = device, torch.get_device_module(device)
        self.stream = self.backend.Stream(device)

    def keep(self, size: int) -> torch.Tensor:
        return pinned(super().keep(size), self.device)

    def start(self, there: torch.Tensor, here: torch.Tensor) -> Any:
        self.stream.wait_stream(self.backend.current_stream(self.device))
        with self.backend.stream(self.stream):
            there.untyped_storage().resize_(len(here))
            there.copy_(here, non_blocking=True)
        return self.stream.record_event()

    def arrive(self, ticket: Any) -> None:
        self.backend.current_stream(self.device).wait_event(ticket)


def pinned(memory: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return the same memory, pinned if the system allows it: copies from other memory are slower, but work.

    torch's own pinned memory is rounded up to powers of two, which for a base of 20 GiB can be 12 GiB more.
    """
    if device.type != "cuda":
        return memory.pin_memory()
    runtime, start = torch.cuda.cudart(), memory.data_ptr()
    if len(memory) and int(runtime.cudaHostRegister(start, len(memory), 0)) == 0:
        weakref.finalize(memory, runtime.cudaHostUnregister, start)
    else:
        with suppress(RuntimeError):  # CUDA keeps the error of a refusal for the next kernel, which is this one
            torch.zeros(1, device=device)
    return memory

"""Which device a model runs on."""

from __future__ import annotations

import os

import torch
from accelerate import PartialState


def has_accelerator() -> bool:
    """Return whether there is a GPU, or another device, that `accelerate launch --cpu` does not forbid."""
    if os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes"):
        return False
    return torch.cuda.is_available() or torch.backends.mps.is_available() or _has("xpu")


def best_device() -> torch.device:
    """Return the device that a run uses: what accelerate picks."""
    return PartialState(cpu=not has_accelerator()).device


def _has(kind: str) -> bool:
    backend = getattr(torch, kind, None)
    return backend is not None and backend.is_available()


def free_cached_memory(device: torch.device) -> None:
    """Give memory that torch holds and does not use back to the device, as after a model was deleted."""
    if device.type == "cuda":
        torch.cuda.empty_cache()

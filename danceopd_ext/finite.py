"""Checks tensors for NaN and infinite numbers, fast enough for the weights of a whole model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch


def is_finite(tensor: torch.Tensor) -> bool:
    """Return whether all numbers of a tensor are finite; True for whole numbers and for empty and meta tensors.

    One pass finds the extremes without a copy, at the speed of the memory; NaN propagates to them.
    """
    if not (tensor.is_floating_point() or tensor.is_complex()) or not tensor.numel() or tensor.is_meta:
        return True
    if tensor.is_complex():
        return bool(tensor.isfinite().all())
    tensor = tensor.detach()
    if tensor.element_size() == 1:  # float8: torch computes no extremes in it
        tensor = tensor.float()
    low, high = torch.aminmax(tensor)
    return bool(low.isfinite()) and bool(high.isfinite())


def first_broken(tensors: Mapping[str, torch.Tensor] | Iterable[tuple[str, torch.Tensor]]) -> str | None:
    """Return the name of the first tensor with NaN or infinite numbers, or None."""
    pairs = tensors.items() if isinstance(tensors, Mapping) else tensors
    return next((name for name, tensor in pairs if isinstance(tensor, torch.Tensor) and not is_finite(tensor)), None)


def broken_weight(module: torch.nn.Module) -> str | None:
    """Return the name of the module's first weight or buffer with NaN or infinite numbers, or None."""
    return first_broken([*module.named_parameters(), *module.named_buffers()])

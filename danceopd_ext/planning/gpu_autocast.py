"""Computes on torch's meta device as a GPU does under autocast: the same dtypes, so the same memory.

torch has no autocast for the meta device. Its rules for CUDA (ATen's autocast_mode.h), for what our models call: matrix
products, convolutions and attention in the narrow dtype, norms and powers in float32. A weight that is trained is cast
once and the copy kept until the context ends. Attention runs as a fused kernel, which makes no matrix of scores.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

NARROW = {
    functional.linear, functional.conv1d, functional.conv2d, functional.conv3d, functional.conv_transpose2d,
    torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__, torch.bmm, torch.Tensor.bmm, torch.baddbmm,
    torch.addmm, torch.mm, torch.einsum,
}  # fmt: skip
WIDE = {
    functional.layer_norm, functional.rms_norm, functional.group_norm, functional.softmax, torch.softmax,
    torch.Tensor.softmax, torch.pow, torch.Tensor.pow, torch.Tensor.__pow__, torch.rsqrt, torch.Tensor.rsqrt, torch.exp,
    torch.Tensor.exp, functional.softplus,
}  # fmt: skip


class GpuAutocast(TorchFunctionMode):
    """The context. `dtype`: the narrow one; float32 casts nothing."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self._cast: dict[int, torch.Tensor] = {}

    def __exit__(self, *error: Any) -> None:
        self._cast.clear()
        super().__exit__(*error)

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        attention = function is functional.scaled_dot_product_attention
        change = self._narrow if function in NARROW or attention else _wide if function in WIDE else None
        if change and self.dtype != torch.float32:
            args = tuple(_changed(one, change) for one in args)
            kwargs = {name: _changed(one, change) for name, one in kwargs.items()}
        return fused_attention(*args, **kwargs) if attention else function(*args, **kwargs)

    def _narrow(self, tensor: torch.Tensor) -> torch.Tensor:
        if not tensor.is_floating_point() or tensor.dtype == self.dtype:
            return tensor
        if not (tensor.requires_grad and tensor.is_leaf):
            return tensor.to(self.dtype)
        if id(tensor) not in self._cast:
            self._cast[id(tensor)] = tensor.to(self.dtype)
        return self._cast[id(tensor)]


def fused_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """Do what torch's scaled_dot_product_attention does on a GPU, with the fused kernel that the meta device knows."""
    if enable_gqa:
        times = query.shape[-3] // key.shape[-3]
        key, value = (tensor.repeat_interleave(times, -3) for tensor in (key, value))
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        attn_mask = torch.empty(attn_mask.shape, dtype=query.dtype, device=query.device)
    fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return fused(query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale)[0]


def as_on_gpu(forward: Callable, dtype: torch.dtype) -> Callable:
    """Return the forward in a context of its own, as gradient checkpointing runs it again in a backward pass."""
    return partial(_within, forward, dtype)


def _within(forward: Callable, dtype: torch.dtype, *args: Any, **kwargs: Any) -> Any:
    if torch._C._current_graph_task_id() == -1:  # a forward, which has the context of the whole transformer
        return forward(*args, **kwargs)
    with GpuAutocast(dtype):
        return forward(*args, **kwargs)


def _changed(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    return change(value) if isinstance(value, torch.Tensor) else value


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor

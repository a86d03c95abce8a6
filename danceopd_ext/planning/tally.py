"""Counts what operations need while they run: memory, arithmetic, and traffic of the memory."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

#: the label of what runs in none of the labelled modules
OUTSIDE = ""
#: operations that only change how memory is looked at
VIEWS = (
    "view", "expand", "permute", "transpose", "slice", "select", "unsqueeze", "squeeze", "detach", "alias", "split",
    "unbind", "t", "as_strided", "_unsafe_view", "unfold", "chunk", "lift_fresh", "empty",
)  # fmt: skip


@dataclass
class Spent:
    """What a part of the work needs. `peak`: the most bytes that were alive. `flops`, and bytes `moved`."""

    peak: int = 0
    flops: int = 0
    moved: int = 0


class Tally(TorchDispatchMode):
    """Counts what runs inside. `now` and `peak`: bytes of living storages.

    `parts`: label -> what ran under it. FLOPs are those of torch's flop counter; `moved` are the bytes that operations
    read and write, as if each ran alone and nothing stayed in a cache. Storages that were made outside do not count.
    Works with real and fake tensors.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.label = OUTSIDE
        self.parts: dict[str, Spent] = {}
        self._living: dict[int, int] = {}

    @property
    def peak(self) -> int:
        return max((part.peak for part in self.parts.values()), default=0)

    @property
    def flops(self) -> int:
        return sum(part.flops for part in self.parts.values())

    def __torch_dispatch__(self, function: Any, types: Any, args: Sequence = (), kwargs: dict | None = None) -> Any:
        result = function(*args, **(kwargs or {}))
        inputs, outputs = _tensors((args, kwargs)), _tensors(result)
        for tensor in outputs:
            self._add(tensor.untyped_storage(), inputs)
        part = self.parts.setdefault(self.label, Spent())
        part.peak = max(part.peak, self.now)
        packet = function._overloadpacket
        if (count := FLOPS.get(packet)) is not None:
            part.flops += count(*args, **(kwargs or {}), out_val=result)
        if packet.__name__ not in VIEWS:
            part.moved += sum(tensor.numel() * tensor.element_size() for tensor in (*inputs, *outputs))
        return result

    @contextmanager
    def labelled(self, modules: Mapping[str, torch.nn.Module]) -> Iterator[None]:
        """Inside, give each module's forward its label.

        In a backward pass the label stays until another module's forward, which gradient checkpointing runs again.
        """

        def started(label: str) -> Callable:
            def hook(*_: Any) -> None:
                self.label = label

            return hook

        def ended(*_: Any) -> None:
            if torch._C._current_graph_task_id() == -1:  # not in a backward pass
                self.label = OUTSIDE

        hooks = [module.register_forward_pre_hook(started(label)) for label, module in modules.items()]
        hooks += [module.register_forward_hook(ended) for module in modules.values()]
        try:
            yield
        finally:
            self.label = OUTSIDE
            for hook in hooks:
                hook.remove()

    def _add(self, storage: torch.UntypedStorage, inputs: Sequence[torch.Tensor]) -> None:
        key = storage._cdata
        if key in self._living or any(tensor.untyped_storage()._cdata == key for tensor in inputs):
            return  # known, or a view of a storage that was made outside
        self._living[key] = storage.nbytes()
        self.now += storage.nbytes()
        weakref.finalize(storage, self._remove, key)

    def _remove(self, key: int) -> None:
        self.now -= self._living.pop(key, 0)


def _tensors(values: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]


def _attention(query: Any, key: Any, value: Any, *_: Any, out_val: Any = None, **__: Any) -> int:
    return sdpa_flop_count(query.shape, key.shape, value.shape)


def _attention_backward(
    gradient: Any, query: Any, key: Any, value: Any, *_: Any, out_val: Any = None, **__: Any
) -> int:
    return sdpa_backward_flop_count(gradient.shape, query.shape, key.shape, value.shape)


def _counting(aten: Any) -> dict[Any, Callable]:
    """torch's own counts, which take tensors, and those of the CPU's attention, which torch lacks."""
    cpu = {
        "_scaled_dot_product_flash_attention_for_cpu": _attention,
        "_scaled_dot_product_flash_attention_for_cpu_backward": _attention_backward,
    }
    own = {getattr(aten, name): count for name, count in cpu.items() if hasattr(aten, name)}
    return {**flop_registry, **own}


FLOPS = _counting(torch.ops.aten)

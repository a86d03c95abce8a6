"""Applies changes that are not plain LoRAs to a linear layer, with one of them (or none) active.

peft has layers for LoKr, LoHa and DoRA, which work together with its LoRA layers on one base. They are not used here:
its LoKr computes the whole weight change in each call (ours costs an eighth of the layer for factors of 8), none of
them can hold a part of a fused layer, several changes in a row or a DoRA of the columns, and its DoRA measures the
weight again in each call. This layer follows peft's interface, so peft's LoRA layers wrap it and one switch serves
both.
"""

from __future__ import annotations

import torch
from peft.tuners.tuners_utils import BaseTunerLayer

from danceopd_ext.lora.weights import Change


class ChangedLinear(torch.nn.Module, BaseTunerLayer):
    """`base_layer` and, by adapter name, its changes. `held`: their tensors, as frozen parameters that move along."""

    adapter_layer_names = ("held",)

    def __init__(self, base_layer: torch.nn.Module) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.changes: dict[str, Change] = {}
        self.held = torch.nn.ModuleDict()

    def hold(self, name: str, change: Change) -> None:
        """Keep the change under `name`; its tensors are parameters already."""
        self.changes[name] = change
        self.held[name] = torch.nn.ParameterList(change.tensors())

    def forward(self, x: torch.Tensor, *args, **kwargs) -> torch.Tensor:
        names = [] if self.disable_adapters else [name for name in self.active_adapters if name in self.changes]
        if not names:
            return self.base_layer(x, *args, **kwargs)
        change, bias = self.changes[names[0]], self.get_base_layer().bias
        if bias is None or not change.needs_base:
            return change.on_output(self.base_layer, x)
        return change.on_output(lambda inner: self.base_layer(inner) - bias, x) + bias


def hold(transformer: torch.nn.Module, layer: str, name: str, change: Change) -> ChangedLinear:
    """Put the change on the linear layer called `layer`, below peft's own layers."""
    parent, _, child = layer.rpartition(".")
    owner, place = transformer.get_submodule(parent), child
    module = getattr(owner, place)
    while isinstance(module, BaseTunerLayer) and not isinstance(module, ChangedLinear):
        owner, place, module = module, "base_layer", module.base_layer
    if not isinstance(module, ChangedLinear):
        module = ChangedLinear(module)
        module.train(owner.training)
        setattr(owner, place, module)
    module.hold(name, change)
    return module

"""Keeps many LoRAs on one frozen transformer, with one of them (or none) active at a time.

The layers are peft's, except those of LoKr, LoHa and DoRA changes, which are ours and work like peft's
(`changed_linear`). The switch is ours too: peft's `set_adapter` and `disable_adapters` also change requires_grad,
which an optimizer and DDP must not see change, so the two attributes that peft's forward reads are set directly.

Shape suffixes: O outputs, I inputs, R rank.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.integrations import dequantize_module_weight

from danceopd_ext.errors import UserError
from danceopd_ext.lora.changed_linear import ChangedLinear, hold
from danceopd_ext.lora.dora import settle
from danceopd_ext.lora.weights import Lora, LowRank
from danceopd_ext.models.held_linear import weights_only_looked_at


class Adapters:
    """The adapters of one transformer. The base's parameters are frozen; nothing is active at first.

    The active adapter must still be the student while `backward` runs: gradient checkpointing computes the forward
    again there. Dropout of the student follows the transformer's train() and eval().
    """

    def __init__(self, transformer: torch.nn.Module) -> None:
        self.transformer = transformer.requires_grad_(False)
        self.active: str | None = None
        self._layers: list[BaseTunerLayer] = []
        self._of: dict[str, dict[str, BaseTunerLayer]] = {}
        self._trained: set[str] = set()

    @property
    def names(self) -> list[str]:
        return list(self._of)

    def add(self, name: str, lora: Lora) -> None:
        """Add a frozen adapter in the base layers' dtype. Raises UserError if a layer or shape does not fit."""
        for layer, change in lora.modules.items():
            base = self._base_layer(layer, lora.name or name)
            if base.in_features != change.shape[1] or base.out_features != change.shape[0]:
                raise UserError(
                    f"{lora.name or name}: {layer} is {change.shape} (outputs, inputs) in the LoRA and"
                    f" {(base.out_features, base.in_features)} in the model. Use a LoRA made for this base model."
                )
        plain = {layer: change for layer, change in lora.modules.items() if isinstance(change, LowRank)}
        layers = self._inject(name, {layer: change.rank for layer, change in plain.items()})
        for layer, change in plain.items():
            dtype = _compute_dtype(layers[layer].get_base_layer())
            self._place(name, layers[layer], change.down_RI, change.up_OR, dtype, trained=False)
        self._hold(name, lora)

    def add_student(
        self,
        name: str,
        rank: int,
        alpha: float,
        layer_names: Sequence[str],
        dropout: float = 0.0,
        dtype: torch.dtype = torch.float32,
        generator: torch.Generator | None = None,
        init: Lora | None = None,
    ) -> None:
        """Add a trainable adapter of `rank` on the layers `layer_names` (exact names), multiplied by alpha / rank.

        Without `init`, down is drawn uniformly in +-1/sqrt(I) and up is zero, as LoRA layers usually start. With it,
        the student starts as `init`, and the ranks that `init` leaves free start in the usual way. `generator` must be
        on the CPU. Raises UserError if `init` has a greater rank, or layers that are not trained.
        """
        init = init or Lora({})
        layer_names = sorted(layer_names)
        for layer in layer_names:
            self._base_layer(layer, name)
        _check_start(init, layer_names, rank)
        layers = self._inject(name, dict.fromkeys(layer_names, rank), alpha, dropout)
        for layer in layer_names:
            base = layers[layer].get_base_layer()
            down = (torch.rand(rank, base.in_features, generator=generator) * 2 - 1) / base.in_features**0.5
            up = torch.zeros(base.out_features, rank)
            if layer in init.modules:
                start = init.modules[layer].to_low_rank()
                down[: start.rank], up[:, : start.rank] = start.down_RI, start.up_OR * (rank / alpha)
            self._place(name, layers[layer], down, up, dtype, trained=True)
        self._trained.add(name)

    @contextmanager
    def use(self, name: str | None) -> Iterator[None]:
        """Make `name` (None: the bare base) the active adapter inside the block; restore the previous one after it."""
        before = self.active
        self.activate(name)
        try:
            yield
        finally:
            self.activate(before)

    def activate(self, name: str | None) -> None:
        """Make `name` the active adapter until further notice; None is the bare base. Raises KeyError if unknown."""
        if name is not None and name not in self._of:
            raise KeyError(f'unknown adapter "{name}"; known: {", ".join(self._of) or "none"}')
        self.active = name
        active, disabled = ([] if name is None else [name]), name is None
        for layer in self._layers:
            # past nn.Module.__setattr__, which costs more than the rest of the loop
            layer.__dict__["_active_adapter"] = active
            layer.__dict__["_disable_adapters"] = disabled

    def student_parameters(self) -> list[torch.nn.Parameter]:
        """Return the parameters of all trainable adapters, in a fixed order."""
        return [factor for name in self._of if name in self._trained for factor in self.state_dict(name).values()]

    def state_dict(self, name: str) -> dict[str, torch.nn.Parameter]:
        """Return the adapter's own parameters as `<layer>.down` and `<layer>.up`, alpha not folded in; no copies.

        The tensors of a LoKr, LoHa or DoRA change are numbered instead.
        """
        factors = {}
        for layer, module in self._of[name].items():
            if isinstance(module, ChangedLinear):
                factors |= {f"{layer}.{number}": tensor for number, tensor in enumerate(module.held[name])}
                continue
            factors[f"{layer}.down"] = module.lora_A[name].weight
            factors[f"{layer}.up"] = module.lora_B[name].weight
        return factors

    def state(self, name: str) -> Lora:
        """Return the adapter as a LoRA: float32 copies on the CPU, with alpha folded in."""
        modules = {}
        for layer, module in self._of[name].items():
            if isinstance(module, ChangedLinear):
                modules[layer] = module.changes[name].mapped(lambda tensor: tensor.detach().float().cpu().clone())
                continue
            down, up = (part[name].weight.detach().float().cpu().clone() for part in (module.lora_A, module.lora_B))
            modules[layer] = LowRank(down, up * module.scaling[name])
        return Lora(modules, name=name)

    @torch.no_grad()
    def load_state(self, name: str, state: Lora | Mapping[str, torch.Tensor]) -> None:
        """Copy a `state` or `state_dict` of the same layers and ranks into the adapter.

        A `state_dict` restores every bit; a `state` has been multiplied by alpha / rank. Raises ValueError if it
        does not fit.
        """
        if isinstance(state, Lora):
            state = {
                key: value
                for layer, change in state.modules.items()
                for key, value in self._unfolded(name, layer, change).items()
            }
        own = self.state_dict(name)
        wrong = set(own) ^ set(state) or {key for key in own if own[key].shape != state[key].shape}
        if wrong:
            raise ValueError(f'state of adapter "{name}" does not fit: {sorted(wrong)[0]} and {len(wrong) - 1} more')
        for key, value in state.items():
            own[key].copy_(value)

    def _unfolded(self, name: str, layer: str, change: LowRank) -> dict[str, torch.Tensor]:
        scaling = self._of[name][layer].scaling[name] if layer in self._of[name] else 1.0
        return {f"{layer}.down": change.down_RI, f"{layer}.up": change.up_OR / scaling}

    def _base_layer(self, layer: str, owner: str) -> torch.nn.Module:
        """The base's own linear layer of this name."""
        try:
            module = self.transformer.get_submodule(layer)
        except AttributeError:
            module = None
        base = module.get_base_layer() if isinstance(module, BaseTunerLayer) else module
        if base is None or not hasattr(base, "in_features"):
            raise UserError(f"{owner}: the model has no linear layer {layer}. Use a LoRA made for this base model.")
        return base

    def _inject(
        self, name: str, ranks: Mapping[str, int], alpha: float | None = None, dropout: float = 0.0
    ) -> dict[str, BaseTunerLayer]:
        """Let peft wrap the layers, without weights yet; `alpha` None makes the scaling 1.

        One call per rank: peft looks a layer's rank up in a list of patterns, which is slow for many layers.
        """
        if not name or "." in name or name in self._of:
            raise ValueError(f'adapter name "{name}" is already used, empty, or contains a dot')
        gradients = {parameter: parameter.requires_grad for parameter in self.transformer.parameters()}
        for rank in sorted(set(ranks.values())):
            layers = "|".join(re.escape(layer) for layer, own in ranks.items() if own == rank)
            config = LoraConfig(r=rank, lora_alpha=alpha or rank, target_modules=layers, lora_dropout=dropout)
            with warnings.catch_warnings(), weights_only_looked_at():
                warnings.filterwarnings("ignore", message="Already found a `peft_config`")
                inject_adapter_in_model(config, self.transformer, name, low_cpu_mem_usage=True)
        for parameter, requires_grad in gradients.items():
            parameter.requires_grad_(requires_grad)
        self._of[name] = {layer: self.transformer.get_submodule(layer) for layer in ranks}
        self.transformer.train(self.transformer.training)  # peft's new modules start in training mode
        self._find_layers()
        return self._of[name]

    def _hold(self, name: str, lora: Lora) -> None:
        """Put the changes that are not plain LoRAs on their layers, in the base layers' dtype.

        Magnitudes and their ratios stay in float32: they are near 1, where bfloat16 has steps of 1/256. A tensor that
        layers share (such as q, k and v of a fused LoKr) is kept once.
        """
        bases = {layer: self._base_layer(layer, name) for layer in lora.modules}
        settled = settle(lora.modules, lambda layer: dequantize_module_weight(bases[layer]))
        shared: dict[tuple, torch.nn.Parameter] = {}
        for layer, change in settled.items():
            if not isinstance(change, LowRank):
                placed = change.mapped(lambda tensor, base=bases[layer]: _parameter(tensor, base, shared))
                self._of[name][layer] = hold(self.transformer, layer, name, placed)
        self._find_layers()

    def _find_layers(self) -> None:
        self._layers = [module for module in self.transformer.modules() if isinstance(module, BaseTunerLayer)]
        self.activate(self.active)

    def _place(
        self, name: str, layer: BaseTunerLayer, down: torch.Tensor, up: torch.Tensor, dtype: torch.dtype, trained: bool
    ) -> None:
        """Give the adapter its weights, on the base layer's device."""
        device = _device(layer.get_base_layer())
        for part, value in ((layer.lora_A[name], down), (layer.lora_B[name], up)):
            value = value.detach().to(device, dtype, copy=True)
            part.weight = torch.nn.Parameter(value, requires_grad=trained)


def _parameter(
    tensor: torch.Tensor, base: torch.nn.Module, shared: dict[tuple, torch.nn.Parameter]
) -> torch.nn.Parameter:
    """Return a frozen copy for the base layer, or the earlier copy of the same memory."""
    device = _device(base)
    dtype = _compute_dtype(base) if tensor.ndim > 1 else torch.float32
    key = tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype, device, dtype
    if key not in shared:
        value = tensor.detach().to(device, dtype, copy=True).contiguous()
        shared[key] = torch.nn.Parameter(value, requires_grad=False)
    return shared[key]


def _device(base: torch.nn.Module) -> torch.device:
    """Return the base layer's device; a layer that holds its weight quantised says it itself."""
    return getattr(base, "device", None) or base.weight.device


def _compute_dtype(base: torch.nn.Module) -> torch.dtype:
    """Return the base layer's dtype; bfloat16 for a quantised layer that does not say what it computes in."""
    dtype = getattr(base, "dtype", None) or base.weight.dtype
    return dtype if dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float64) else torch.bfloat16


def _check_start(init: Lora, layer_names: Sequence[str], rank: int) -> None:
    """Raise UserError unless a student of `rank` on `layer_names` can start as `init`."""
    label = init.name or "the LoRA to start from"
    untrained = [layer for layer in init.modules if layer not in set(layer_names)]
    if untrained:
        raise UserError(
            f"{label}: changes {len(untrained)} layers that are not trained, such as {untrained[0]}. Train them too"
            " (network_args) or start from another LoRA (network_weights)."
        )
    needed = max((change.rank for change in init.modules.values()), default=0)
    if needed > rank:
        raise UserError(f"{label}: has rank {needed}. Set network_dim = {needed} or more (now {rank}).")

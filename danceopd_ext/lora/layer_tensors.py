"""Checks the tensors of one layer in a file, and makes its change of them.

Every tensor is checked before anything is multiplied. Products keep the file's tensors as they are, so reading a LoHa
or LoKr needs no memory beyond the file's own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import torch

from danceopd_ext.errors import UserError
from danceopd_ext.lora.alphas import ScaleRule, by_rank, check_scale
from danceopd_ext.lora.dialects import Group
from danceopd_ext.lora.dora import Dora
from danceopd_ext.lora.lora_file import LoraFile
from danceopd_ext.lora.lycoris import Hadamard, Kronecker
from danceopd_ext.lora.weights import Change, LowRank

#: dtypes in which a product is kept; others, such as float8, become float32
_KEPT = (torch.float32, torch.float16, torch.bfloat16)

#: numbers of the weight of a layer in diffusers' names; FLUX.2 has one of 3.4e8
LARGEST_LAYER = 2**29
#: a factor's largest entry; a product of two is still a number in float32
LARGEST_VALUE = 1e15

_HADA = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")


def shape_of(file: LoraFile, group: Group) -> tuple[int, int]:
    """Return (outputs, inputs) of one layer's change, from the sizes of its tensors alone: no number is read.

    Raises UserError, naming the file and the key, if the parts cannot be multiplied, and for a layer larger than
    any model's: a file of a megabyte can describe one of terabytes.
    """
    outputs, inputs = shape = _shape(file, group, _parts(file, group))
    if outputs * inputs > LARGEST_LAYER * max(1, len(group.base_layers)):
        raise UserError(
            f"{file.path}: {group.layer} describes a layer of {outputs:,} outputs and {inputs:,} inputs, larger than "
            "a layer of any model. Download the file again, or use another LoRA."
        )
    return shape


def check_numbers(file: LoraFile, group: Group, shape: tuple[int, int], rule: ScaleRule) -> None:
    """Check the numbers of one layer, whose shape is `shape`, without building its change. Raises UserError."""
    for part, key in group.parts.items():
        _check_values(file, key, part)
    _scale(file, group, _parts(file, group), rule)
    if "DoRA" in group.parts:
        _axis(file, group, shape)


def build_change(file: LoraFile, group: Group, shape: tuple[int, int], rule: ScaleRule) -> Change:
    """Return one layer's change in the file's own rows, with alpha folded in.

    A plain LoRA is in float32; products keep the file's dtype. `shape`: see `shape_of`. Raises UserError naming the
    file and the key.
    """
    check_numbers(file, group, shape, rule)
    parts = _parts(file, group)
    scale = _scale(file, group, parts, rule)
    change = _built(group.kind, parts, scale)
    if "DoRA" not in group.parts:
        return change
    key, axis = group.parts["DoRA"], _axis(file, group, shape)
    by_base = axis == "out" and key.endswith(".dora_scale")
    return Dora(change, file.tensors[key].flatten().float(), axis, by_base)


def _built(kind: str, parts: Mapping[str, torch.Tensor], scale: float) -> Change:
    if kind == "LoHa":
        return Hadamard(*(_kept(parts[name]) for name in _HADA), scale)
    if kind == "LoKr":
        return Kronecker(_factor(parts, "lokr_w1"), _factor(parts, "lokr_w2"), scale)
    if kind == "difference":
        return Kronecker(torch.ones(1, 1, dtype=_kept(parts["diff"]).dtype), _kept(parts["diff"]), scale)
    return LowRank(parts["down"].float(), parts["up"].float() * scale)


def _factor(parts: Mapping[str, torch.Tensor], name: str) -> torch.Tensor | LowRank:
    if name in parts:
        return _kept(parts[name])
    return LowRank(_kept(parts[f"{name}_b"]), _kept(parts[f"{name}_a"]))


def _kept(value: torch.Tensor) -> torch.Tensor:
    return value if value.dtype in _KEPT else value.float()


def _parts(file: LoraFile, group: Group) -> dict[str, torch.Tensor]:
    return {part: _matrix(file, key) for part, key in group.parts.items() if part not in ("alpha", "DoRA")}


def _matrix(file: LoraFile, key: str) -> torch.Tensor:
    """Return the tensor as a matrix; a 1x1 convolution kernel counts as one."""
    value = file.tensors[key]
    if value.ndim > 2 and value.shape[2:].numel() == 1:
        value = value.flatten(1)
    if value.ndim != 2:
        raise UserError(
            f"{file.path}: {key} has shape {tuple(value.shape)}; expected two dimensions, as for a linear layer."
        )
    if not value.numel():
        raise UserError(
            f"{file.path}: {key} is empty (shape {tuple(value.shape)}); expected a rank of at least 1."
            " Download the file again, or remove this layer from it."
        )
    return value


def _check_values(file: LoraFile, key: str, part: str) -> None:
    """Raise UserError unless the tensor holds real, finite numbers of a size that training can give."""
    tensor = file.tensors[key]
    if tensor.dtype == torch.bool or not (tensor.is_floating_point() or part == "alpha"):
        raise UserError(
            f"{file.path}: {key} holds {str(tensor.dtype).removeprefix('torch.')} values; expected float32"
            ", float16 or bfloat16. Download the file again, or ask its author for it."
        )
    largest = float(tensor.float().abs().max()) if tensor.numel() else 0.0
    if not math.isfinite(largest):
        raise UserError(
            f"{file.path}: {key} holds NaN or infinite values: the training diverged. Use an earlier "
            "checkpoint of that training, or another LoRA."
        )
    if largest > LARGEST_VALUE:
        raise UserError(
            f"{file.path}: {key} holds values above {LARGEST_VALUE:g}: the training diverged, or the "
            "file is damaged. Use an earlier checkpoint of that training, or another LoRA."
        )


def _shape(file: LoraFile, group: Group, parts: Mapping[str, torch.Tensor]) -> tuple[int, int]:
    """Return (outputs, inputs) of the product. Raises UserError if two parts cannot be multiplied."""
    if group.kind == "LoHa":
        one, two = (_product(file, group, parts, f"hada_{w}_a", f"hada_{w}_b") for w in ("w1", "w2"))
        if one != two:
            raise _mismatch(file, group, "the two products differ in size")
        return one
    if group.kind == "LoKr":
        (o1, i1), (o2, i2) = (
            tuple(parts[w].shape) if w in parts else _product(file, group, parts, f"{w}_a", f"{w}_b")
            for w in ("lokr_w1", "lokr_w2")
        )
        return o1 * o2, i1 * i2
    if group.kind == "difference":
        return tuple(parts["diff"].shape)
    return _product(file, group, parts, "up", "down")


def _product(file: LoraFile, group: Group, parts: Mapping[str, torch.Tensor], left: str, right: str) -> tuple[int, int]:
    if parts[left].shape[1] != parts[right].shape[0]:
        raise _mismatch(file, group, f"{left} and {right} differ in rank")
    return parts[left].shape[0], parts[right].shape[1]


def _mismatch(file: LoraFile, group: Group, why: str) -> UserError:
    shapes = {key: tuple(file.tensors[key].shape) for key in group.parts.values()}
    return UserError(
        f"{file.path}: the tensors of {group.layer} do not fit together ({why}): {shapes}. Download or copy the file"
        " again."
    )


def _scale(file: LoraFile, group: Group, parts: Mapping[str, torch.Tensor], rule: ScaleRule) -> float:
    if group.kind == "difference":  # the whole change, which nobody scales
        return 1.0
    # of two factored parts the second counts, as in ComfyUI
    ranked = [parts[part].shape[0] for part in ("down", "hada_w1_b", "lokr_w1_b", "lokr_w2_b") if part in parts]
    rank = ranked[-1] if ranked else None
    if "alpha" in group.parts:
        key = group.parts["alpha"]
        return check_scale(f"{file.path}: {key}", by_rank(_alpha(file, key), rank))
    return rule(group.layer, group.kind, rank)


def _alpha(file: LoraFile, key: str) -> float:
    values = file.tensors[key].float().flatten().unique()
    if len(values) != 1:
        shown = "no value" if not len(values) else f"{file.tensors[key].numel()} values that differ"
        raise UserError(f"{file.path}: {key} holds {shown}; expected one number. Download the file again.")
    return float(values)


def _axis(file: LoraFile, group: Group, shape: tuple[int, int]) -> str:
    """Whether a DoRA's magnitude has one length per output ("out") or per input ("in"). Raises UserError."""
    value = file.tensors[group.parts["DoRA"]]
    outputs, inputs = shape
    if value.numel() == outputs and (value.ndim <= 1 or value.shape[0] == outputs):
        return "out"
    if value.numel() == inputs:
        return "in"
    raise UserError(
        f"{file.path}: {group.parts['DoRA']} has shape {tuple(value.shape)}: the layer has {outputs} outputs and"
        f" {inputs} inputs, and a DoRA needs one magnitude per output or per input. Download or copy the file again."
    )


def with_siblings(change: Change, layers: tuple[str, ...]) -> Change:
    """A part of a fused layer's change that remembers the other parts, with which its columns are measured."""
    return replace(change, fused=layers) if isinstance(change, Dora) and len(layers) > 1 else change

"""Reads the teachers' LoRA files, of any dialect, under the names that a toolkit's own network module reads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch

from danceopd_ext.config.schema import DanceOPDSection
from danceopd_ext.errors import UserError
from danceopd_ext.lora.algebra import combine, low_rank
from danceopd_ext.lora.read import read_lora
from danceopd_ext.lora.weights import Lora
from danceopd_ext.lora.write import balanced, to_tensors
from danceopd_ext.models.layer_names import LayerNames
from danceopd_ext.models.layout import Layout
from danceopd_ext.toolkits.hosted.active_adapter import STUDENT
from danceopd_ext.toolkits.hosted.console import tell

#: name of a linear layer in the toolkit's transformer -> (outputs, inputs)
Linears = Mapping[str, tuple[int, int]]

_NOT_HERE = (
    'The toolkit\'s networks support only plain LoRA factors. Use toolkit = "native", or convert the file to a plain'
    " LoRA with `danceopd convert ... --rank N`, if its kind allows that."
)


def linear_layers(transformer: torch.nn.Module) -> dict[str, tuple[int, int]]:
    """Return the linear layers of the toolkit's transformer. Call it before a network is applied."""
    modules = transformer.named_modules()
    return {name: (m.out_features, m.in_features) for name, m in modules if isinstance(m, torch.nn.Linear)}


def host_layout(names: LayerNames | None, name: str, linears: Linears) -> Layout:
    """Return the LoRA names of the toolkit's transformer, whose layers have diffusers' names or the native ones.

    `names` None: for this architecture only the toolkit's own names are known (`name` is for messages).
    """
    if names is None:
        own = {layer: (layer,) for layer in linears}
        return Layout(name, dict.fromkeys(linears), own)
    reference = names.reference_layers()
    native = {layer: parts for layer, parts in names.native_names(reference).items() if layer in linears}
    by_diffusers = [layer for layer in reference if layer in linears]
    if len(by_diffusers) > len(native):
        return _layout(names, by_diffusers, "diffusers")
    return _layout(names, [part for parts in native.values() for part in parts], "native")


def _layout(names: LayerNames, layers: list[str], own: str) -> Layout:
    """Return the layout; `own`: whose names the toolkit's transformer has."""
    return replace(names.layout_of(dict.fromkeys(layers)), kohya_names=own, comfyui_names=own)


def read_teachers(options: DanceOPDSection, layout: Layout, say: Callable[[str], None] = tell) -> dict[str, Lora]:
    """Return the LoRA of every teacher that has one, its files combined. Raises UserError naming teacher and file.

    `say` gets notes on layers that are left out, and on a teacher that changes nothing.
    """
    loras = {}
    for name, teacher in options.teachers.items():
        if name == STUDENT:
            raise UserError(f'[danceopd.teachers.{name}]: a teacher cannot be called "{name}". Choose another name.')
        try:
            parts = [read_lora(place, layout, **teacher.ignored) for place in teacher.loras]
        except UserError as error:
            raise UserError(f"[danceopd.teachers.{name}] {error}") from error
        if parts:
            loras[name] = combine(list(zip(parts, teacher.strengths, strict=True)))
            for note in loras[name].notes:
                say(f"note: [danceopd.teachers.{name}] {note}")
            if loras[name].changes_nothing():
                say(f"note: [danceopd.teachers.{name}] this teacher changes nothing: its LoRA is zero")
    return loras


def network_tensors(name: str, lora: Lora, layout: Layout, linears: Linears) -> dict[str, torch.Tensor]:
    """Return the teacher as a kohya state dict with the toolkit's own layer names, float32, alpha = rank.

    LoHa and LoKr changes become plain factors, exactly. Raises UserError if these would be larger than the layers, for
    a DoRA, and if a layer's size differs from the model's.
    """
    try:
        plain = low_rank(lora, _NOT_HERE)
    except UserError as error:
        raise UserError(f"[danceopd.teachers.{name}] {error}") from error
    tensors = to_tensors(balanced(plain, layout), layout, "kohya", torch.float32)
    sizes = {"lora_unet_" + layer.replace(".", "_"): (layer, size) for layer, size in linears.items()}
    for key in (key for key in tensors if key.endswith(".lora_down.weight")):
        module = key.removesuffix(".lora_down.weight")
        outputs, inputs = tensors[f"{module}.lora_up.weight"].shape[0], tensors[key].shape[1]
        layer, size = sizes.get(module, (module, None))
        if size != (outputs, inputs):
            what = f"{size} in the model" if size else "not in the model"
            raise UserError(
                f"[danceopd.teachers.{name}] {lora.name}: {layer} is {(outputs, inputs)} (outputs, inputs) in the "
                f"LoRA and {what}. Use a LoRA made for exactly the base model that you train."
            )
    return tensors


def left_out(tensors: Iterable[str], network: Any) -> tuple[list[str], int]:
    """Return the layers of a teacher's state dict that the toolkit's network lacks, and how many layers there are.

    The toolkits' network modules silently leave out layers that they do not know.
    """
    wanted = {key.partition(".")[0] for key in tensors}
    return sorted(wanted - {module.lora_name for module in network.unet_loras}), len(wanted)


def autocast_dtype(mixed_precision: str | None) -> torch.dtype:
    """Return a toolkit's compute dtype. A teacher in it gives the same numbers as in float32, with half the memory."""
    return {"fp16": torch.float16, "bf16": torch.bfloat16}.get(mixed_precision, torch.float32)

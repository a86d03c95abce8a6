"""Reads a LoRA of any dialect into one in-memory form."""

from __future__ import annotations

import math
import os
from collections import Counter
from dataclasses import replace

import torch

from danceopd_ext.errors import UserError
from danceopd_ext.lora.algebra import relative_difference
from danceopd_ext.lora.alphas import scale_rule
from danceopd_ext.lora.checks import check_keys, few, left_out
from danceopd_ext.lora.dialects import REFUSED, Group, Parsed, parse, plain
from danceopd_ext.lora.dora import Dora
from danceopd_ext.lora.layer_tensors import build_change, check_numbers, shape_of, with_siblings
from danceopd_ext.lora.lora_file import LoraFile, open_lora_file
from danceopd_ext.lora.weights import Change, Lora, LowRank, in_pieces, stacked
from danceopd_ext.models.layout import Layout

#: up to this many numbers per layer, two changes are compared number by number, above it by sums
_COMPARED = 2**26

_NEEDED = {
    "LoRA": ({"down", "up"},),
    "difference": ({"diff"},),
    "LoHa": ({"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"},),
    "LoKr": (
        {"lokr_w1", "lokr_w2"},
        {"lokr_w1", "lokr_w2_a", "lokr_w2_b"},
        {"lokr_w1_a", "lokr_w1_b", "lokr_w2"},
        {"lokr_w1_a", "lokr_w1_b", "lokr_w2_a", "lokr_w2_b"},
    ),
}


def read_lora(
    place: str | os.PathLike, layout: Layout, *, ignore_text_encoder: bool = False, ignore_other_parts: bool = False
) -> Lora:
    """Read the LoRA at `place` (see `open_lora_file`) for a model of `layout`, with alpha folded in.

    Raises UserError, naming the file, its first keys and the remedy, if the file is missing, damaged, not a LoRA, made
    for another family or size, only partly understood, incomplete, not finite, or contains a change that is not
    low-rank.
    `ignore_text_encoder` reads the transformer's part of a file that also trains text encoders, and
    `ignore_other_parts` the linear layers' part of a file that also changes biases and norms. The LoRA's `notes` name
    what is left out.
    """
    return to_lora(
        open_lora_file(place), layout, ignore_text_encoder=ignore_text_encoder, ignore_other_parts=ignore_other_parts
    )


def to_lora(
    file: LoraFile, layout: Layout, *, ignore_text_encoder: bool = False, ignore_other_parts: bool = False
) -> Lora:
    """`read_lora` for a file that is already open."""
    parsed = _checked(file, layout, ignore_text_encoder, ignore_other_parts)
    shapes, rule = _check_shapes(file, parsed, layout), scale_rule(file)
    modules: dict[str, Change] = {}
    for group in _in_order(parsed):
        change = build_change(file, group, shapes[group.layer], rule)
        for name, part in zip(group.base_layers, split_native(change, group, layout, file), strict=True):
            if name in modules and not _same(modules[name], part):
                raise UserError(f"{file.path}: contains {name} twice, with different values (also as {group.layer}).")
            modules.setdefault(name, part)
    return Lora(modules, file.metadata, file.path.stem, left_out(file, parsed))


def check_lora(
    file: LoraFile, layout: Layout, *, ignore_text_encoder: bool = False, ignore_other_parts: bool = False
) -> None:
    """Raise UserError if `to_lora` would, without building the changes.

    Only layers that the file gives twice are built, to be compared.
    """
    parsed = _checked(file, layout, ignore_text_encoder, ignore_other_parts)
    shapes, rule = _check_shapes(file, parsed, layout), scale_rule(file)
    times = Counter(name for group in parsed.groups for name in group.base_layers)
    for group in _in_order(parsed):
        check_numbers(file, group, shapes[group.layer], rule)
    repeated = [group for group in parsed.groups if any(times[name] > 1 for name in group.base_layers)]
    if repeated:
        keys = [key for group in repeated for key in group.parts.values()]
        to_lora(replace(file, tensors={key: file.tensors[key] for key in keys}), layout)


def _checked(file: LoraFile, layout: Layout, ignore_text_encoder: bool, ignore_other_parts: bool) -> Parsed:
    """Return the file's keys, sorted. Raises UserError unless all of them can be read or ignored."""
    parsed = parse(file.tensors, layout)
    check_keys(file, parsed, layout, ignore_text_encoder, ignore_other_parts)
    for group in parsed.groups:
        _check_group(file, group)
    return parsed


def _in_order(parsed: Parsed) -> list[Group]:
    """Return the layers, diffusers names first: some files repeat them in a fused layer."""
    return sorted(parsed.groups, key=lambda group: group.native)


def _check_group(file: LoraFile, group: Group) -> None:
    if group.kind in REFUSED:
        raise UserError(
            f"{file.path}: {group.parts[group.kind]} is a {group.kind} change, which is not low-rank."
            ' Merge this file into its model and use the result as checkpoint = "...", or use a plain LoRA.'
        )
    have = set(group.parts) - {"alpha", "DoRA"}
    if have not in _NEEDED[group.kind]:
        missing = min((needed - have for needed in _NEEDED[group.kind]), key=len)
        raise UserError(
            f"{file.path}: {group.layer} is incomplete: has {few(sorted(group.parts.values()))}, lacks"
            f" {', '.join(sorted(missing)) or 'nothing, but has tensors of two kinds'}. Download or copy the file "
            "again."
        )


def split_native(change: Change, group: Group, layout: Layout, file: LoraFile) -> list[Change]:
    """Split a native layer's change, by rows, into those of its diffusers layers.

    The parts may differ in size: FLUX.1 fuses q, k and v with an MLP that is four times as large as each of them.
    A layer of `layout.swapped` has two outputs per input natively, in the other order; a native layer of that name
    with six outputs per input is another block's modulation and stays as it is.
    """
    if not group.native:
        return [change]
    parts, first = [], 0
    for name, (outputs, inputs) in zip(
        group.base_layers, _shapes(change.shape, group, layout, file).values(), strict=True
    ):
        part = with_siblings(change.rows(first, first + outputs), group.base_layers)
        parts.append(swapped(part) if is_swapped(layout, name, (outputs, inputs)) else part)
        first += outputs
    return parts


def _shapes(shape: tuple[int, int], group: Group, layout: Layout, file: LoraFile) -> dict[str, tuple[int, int]]:
    """Return the layers that a change of `shape` belongs to, with their sizes.

    Raises UserError if it cannot be split.
    """
    if not group.native:
        return {group.base_layers[0]: shape}
    outputs, inputs = shape
    shares = layout.shares(group.base_layers)
    if any(outputs * share % sum(shares) for share in shares):
        ratio = " : ".join(str(share // math.gcd(*shares)) for share in shares)
        raise UserError(
            f"{file.path}: {group.layer} has {outputs} outputs, which cannot be split into {ratio}. Use a LoRA made for"
            " exactly the base model that you train."
        )
    return {
        name: (outputs * share // sum(shares), inputs) for name, share in zip(group.base_layers, shares, strict=True)
    }


def is_swapped(layout: Layout, name: str, shape: tuple[int, int]) -> bool:
    """Return whether this layer's two halves of outputs are in the other order natively."""
    return name in layout.swapped and shape[0] == 2 * shape[1]


def swap_halves(up_OR: torch.Tensor) -> torch.Tensor:
    """Swap the first and second half of the rows."""
    return torch.cat(up_OR.chunk(2)[::-1])


def swapped(change: Change) -> Change:
    """Return the change with the first and second half of its outputs swapped."""
    if isinstance(change, Dora):
        magnitude = swap_halves(change.magnitude) if change.axis == "out" else change.magnitude
        return replace(change, change=swapped(change.change), magnitude=magnitude)
    if isinstance(change, LowRank):
        return LowRank(change.down_RI, swap_halves(change.up_OR))
    half, outputs = change.shape[0] // 2, change.shape[0]
    return stacked([change.rows(half, outputs), change.rows(0, half)])


def _same(one: Change, other: Change) -> bool:
    """Return whether two changes of one layer are equal, up to rounding."""
    if one.shape != other.shape or one.needs_base != other.needs_base:
        return False
    pairs = list(zip(one.tensors(), other.tensors(), strict=False))
    alike = type(one) is type(other) and one.numbers() == other.numbers() and all(a.shape == b.shape for a, b in pairs)
    if alike and all(torch.equal(a, b) for a, b in pairs):
        return True
    if one.needs_base:
        return alike and all(torch.allclose(a.float(), b.float(), rtol=1e-3, atol=1e-6) for a, b in pairs)
    if one.shape[0] * one.shape[1] > _COMPARED:
        return relative_difference(Lora({"": one}), Lora({"": other})) < 1e-3
    return all(
        torch.allclose(a, b, rtol=1e-3, atol=1e-6) for a, b in zip(in_pieces(one), in_pieces(other), strict=True)
    )


def _check_shapes(file: LoraFile, parsed: Parsed, layout: Layout) -> dict[str, tuple[int, int]]:
    """Return the shape of each layer of the file. Raises UserError for a LoRA of the same family but another size.

    A product is as large as its shape says, so nothing is multiplied until the shapes match the model.
    """
    found, shapes = {}, {}
    for group in _in_order(parsed):
        found[group.layer] = shape_of(file, group)
        shapes = _shapes(found[group.layer], group, layout, file) | shapes
    wrong = [name for name, shape in shapes.items() if layout.shapes.get(name) not in (None, shape)]
    if wrong:
        first = wrong[0]
        raise UserError(
            f"{file.path}: made for a model of another size: {len(wrong)} of {len(shapes)} layers differ, such as"
            f" {plain(first)}: {shapes[first]} (outputs, inputs) in the file, {layout.shapes[first]} in the"
            " model. Use a LoRA made for exactly the base model that you train."
        )
    return found

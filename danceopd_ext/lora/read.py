"""Read a LoRA of any dialect into the one in-memory form."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Iterable

import torch

from danceopd_ext.errors import UserError
from danceopd_ext.lora import lycoris
from danceopd_ext.lora.dialects import OUR_NAMES, REFUSED, Group, Parsed, guess_family, parse, plain
from danceopd_ext.lora.layout import Layout
from danceopd_ext.lora.source import Source, open_source
from danceopd_ext.lora.weights import Lora, LowRank

_NEEDED = {
    "LoRA": ({"down", "up"},),
    "LoHa": ({"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"},),
    "LoKr": (
        {"lokr_w1", "lokr_w2"},
        {"lokr_w1", "lokr_w2_a", "lokr_w2_b"},
        {"lokr_w1_a", "lokr_w1_b", "lokr_w2"},
        {"lokr_w1_a", "lokr_w1_b", "lokr_w2_a", "lokr_w2_b"},
    ),
}


def read_lora(place: str | os.PathLike, layout: Layout, *, ignore_text_encoder: bool = False) -> Lora:
    """Read the LoRA at `place` (see `open_source`) for a model of `layout`; factors in float32 with alpha folded in.

    Raises UserError, naming the file, its first keys and the remedy, when the file is missing, damaged, no LoRA, of
    another family or size, only partly understood, incomplete, not finite, or holds a change that is not low-rank.
    `ignore_text_encoder` reads the transformer's part of a file that also trains text encoders.
    """
    return to_lora(open_source(place), layout, ignore_text_encoder=ignore_text_encoder)


def to_lora(source: Source, layout: Layout, *, ignore_text_encoder: bool = False) -> Lora:
    """`read_lora` for a file that is already open."""
    parsed = parse(source.tensors, layout)
    check_keys(source, parsed, layout, ignore_text_encoder)
    alpha_of = _alpha_rule(source)
    modules: dict[str, LowRank] = {}
    # diffusers names first: some files repeat split layers in a fused one
    for group in sorted(parsed.groups, key=lambda group: group.native):
        change = _change(source, group, alpha_of)
        for name, part in zip(group.targets, split_native(change, group, layout, source), strict=True):
            if name in modules and not _same(modules[name], part):
                raise UserError(f"{source.path}: gives {name} twice with different values (again as {group.layer}).")
            modules.setdefault(name, part)
    _check_shapes(source, modules, layout)
    return Lora(modules, source.metadata, source.path.stem)


def few(keys: Iterable[str], count: int = 3) -> str:
    """The first keys, for a message."""
    keys = list(keys)
    return ", ".join(keys[:count]) + (f", … ({len(keys)} in all)" if len(keys) > count else "")


def no_lora(source: Source) -> str:
    """What is said of a file without a key that ends like a LoRA's."""
    if not source.tensors:
        return f"{source.path}: holds no tensors. Download or copy it again."
    return (
        f"{source.path}: not a LoRA: no key ends like one (first keys: {few(source.tensors)}). If it is a whole model, "
        f'use checkpoint = "{source.path}" instead of lora.'
    )


def check_keys(source: Source, parsed: Parsed, layout: Layout, ignore_text_encoder: bool) -> None:
    """Raise UserError unless every key belongs to a complete low-rank change of a layer of the family."""
    path, keys = source.path, source.tensors
    ours = OUR_NAMES.get(layout.family, layout.family)
    looks = guess_family(keys)
    other_family = f" It looks like a LoRA of {looks}." if looks and not ours.startswith(looks) else ""
    if parsed.empty:
        raise UserError(no_lora(source))
    if not parsed.groups and parsed.strangers:
        raise UserError(
            f"{path}: no key fits {ours} (first keys: {few(keys)}).{other_family} Use a LoRA made for the base model"
            " that you train."
        )
    if parsed.text_encoder and not ignore_text_encoder:
        raise UserError(
            f"{path}: also changes text encoders ({few(parsed.text_encoder)}), which are not trained here. To use its"
            " transformer part alone, set ignore_text_encoder = true (on a command line: --ignore_text_encoder)."
        )
    if not parsed.groups:
        raise UserError(f"{path}: only changes text encoders ({few(parsed.text_encoder)}); there is nothing to learn.")
    unfit = [group.layer for group in parsed.strangers] + parsed.other
    if unfit:
        raise UserError(
            f"{path}: {len(unfit)} of {len(unfit) + len(parsed.groups)} layers do not fit {ours}: {few(unfit, 6)}."
            f"{other_family} Use a LoRA made for exactly the base model that you train."
        )
    for group in parsed.groups:
        _check_group(source, group)


def _check_group(source: Source, group: Group) -> None:
    if group.kind in REFUSED:
        raise UserError(
            f"{source.path}: {group.parts[group.kind]} is a {group.kind} change, which is not low-rank."
            ' Merge this file into its model and use the result as checkpoint = "...", or use a plain LoRA.'
        )
    have = set(group.parts) - {"alpha"}
    if have not in _NEEDED[group.kind]:
        missing = min((needed - have for needed in _NEEDED[group.kind]), key=len)
        raise UserError(
            f"{source.path}: {group.layer} is incomplete: has {few(sorted(group.parts.values()))}, lacks"
            f" {', '.join(sorted(missing)) or 'nothing but has parts of two kinds'}. Download or copy the file again."
        )


def _change(source: Source, group: Group, alpha_of: Callable[[str, int], float | None]) -> LowRank:
    """Build one layer's change in float32, alpha folded in, still in the file's own rows."""
    parts = {part: _matrix(source, key) for part, key in group.parts.items() if part != "alpha"}
    alpha = float(_finite(source, group.parts["alpha"]).item()) if "alpha" in group.parts else None
    try:
        if group.kind == "LoHa":
            return lycoris.loha(*(parts[f"hada_{part}"] for part in ("w1_a", "w1_b", "w2_a", "w2_b")), alpha)
        if group.kind == "LoKr":
            return lycoris.lokr(parts, alpha)
        if parts["down"].shape[0] != parts["up"].shape[1]:
            raise RuntimeError("the ranks of its two factors differ")
        if alpha is None:
            alpha = alpha_of(group.layer, parts["down"].shape[0])
        return lycoris.lora(parts["down"], parts["up"], alpha)
    except (RuntimeError, IndexError) as problem:
        shapes = {key: tuple(source.tensors[key].shape) for key in group.parts.values()}
        raise UserError(f"{source.path}: the parts of {group.layer} do not go together: {shapes}.") from problem


def _finite(source: Source, key: str) -> torch.Tensor:
    value = source.tensors[key].float()
    if not torch.isfinite(value).all():
        raise UserError(
            f"{source.path}: {key} holds NaN or infinite values: the training that made it broke down. Use an earlier "
            "file of that training, or another LoRA."
        )
    return value


def _matrix(source: Source, key: str) -> torch.Tensor:
    """The tensor as a float32 matrix; a 1x1 convolution kernel is one."""
    value = _finite(source, key)
    if value.ndim > 2 and value.shape[2:].numel() == 1:
        value = value.flatten(1)
    if value.ndim != 2:
        raise UserError(f"{source.path}: {key} has shape {tuple(value.shape)}, a linear layer's LoRA has two sizes.")
    return value


def _alpha_rule(source: Source) -> Callable[[str, int], float | None]:
    """How alpha follows from what stands beside the tensors: adapter_config.json or diffusers' metadata entry.

    The returned function gives the alpha in `alpha / rank` (use_rslora, alpha / sqrt(rank), included), None = rank.
    """
    config = source.config
    if not config and "lora_adapter_metadata" in source.metadata:
        try:
            config = json.loads(source.metadata["lora_adapter_metadata"])
        except ValueError as problem:
            raise UserError(f"{source.path}: its metadata entry lora_adapter_metadata is not JSON.") from problem
        config = {key.removeprefix("transformer."): value for key, value in config.items()}
    default = config.get("lora_alpha")
    patterns = {pattern.lstrip("^"): value for pattern, value in (config.get("alpha_pattern") or {}).items()}

    def alpha(layer: str, rank: int) -> float | None:
        value = next((patterns[key] for key in patterns if _fits_pattern(key, layer)), default)
        return value * rank**0.5 if value is not None and config.get("use_rslora") else value

    return alpha


def _fits_pattern(pattern: str, layer: str) -> bool:
    """PEFT's rule: the pattern is a regular expression for the end of the name, from a dot on."""
    return re.match(rf"(.*\.)?({pattern})$", layer) is not None


def split_native(change: LowRank, group: Group, layout: Layout, source: Source) -> list[LowRank]:
    """Cut a native layer's change into those of its diffusers layers: rows of up; down is shared.

    The parts may differ in size: FLUX.1 fuses q, k and v with an MLP that is four times as large as each of them.
    A layer of `layout.swapped` has two outputs per input natively, in the other order; a native layer of that name
    with six outputs per input is another block's modulation and stays as it is.
    """
    if not group.native:
        return [change]
    outputs, inputs = change.shape
    shares = layout.shares(group.targets)
    if any(outputs * share % sum(shares) for share in shares):
        ratio = " : ".join(str(share // math.gcd(*shares)) for share in shares)
        raise UserError(
            f"{source.path}: {group.layer} has {outputs} outputs, which cannot be cut into {ratio}. Use a LoRA made for"
            " exactly the base model that you train."
        )
    ups = change.up_OR.split([outputs * share // sum(shares) for share in shares])
    parts = []
    for name, up in zip(group.targets, ups, strict=True):
        if is_swapped(layout, name, (up.shape[0], inputs)):
            up = swap_halves(up)
        parts.append(LowRank(change.down_RI, up))
    return parts


def is_swapped(layout: Layout, name: str, shape: tuple[int, int]) -> bool:
    """Whether this layer's two halves of outputs stand in the other order natively."""
    return name in layout.swapped and shape[0] == 2 * shape[1]


def swap_halves(up_OR: torch.Tensor) -> torch.Tensor:
    """Exchange the first and second half of the rows."""
    return torch.cat(up_OR.chunk(2)[::-1])


def _same(one: LowRank, other: LowRank) -> bool:
    return one.shape == other.shape and torch.allclose(one.delta(), other.delta(), rtol=1e-3, atol=1e-6)


def _check_shapes(source: Source, modules: dict[str, LowRank], layout: Layout) -> None:
    """Raise UserError for a LoRA of the same family but another size."""
    wrong = [name for name, change in modules.items() if layout.shapes.get(name) not in (None, change.shape)]
    if wrong:
        first = wrong[0]
        raise UserError(
            f"{source.path}: made for another size of model: {len(wrong)} of {len(modules)} layers differ, such as"
            f" {plain(first)}: {modules[first].shape} (outputs, inputs) in the file, {layout.shapes[first]} in the"
            " model. Use a LoRA made for exactly the base model that you train."
        )

"""Writes a LoRA in the names that a toolkit or UI reads, completely or not at all, and reads it back.

Every file has alpha = rank, so that strength 1.0 means the same everywhere: kohya's keys say so with an `.alpha`, the
others have none. Shape suffixes: O outputs, I inputs, R rank.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

from danceopd_ext.errors import UserError
from danceopd_ext.files import whole_file
from danceopd_ext.foreign.tensors import read_tensors
from danceopd_ext.lora.algebra import low_rank
from danceopd_ext.lora.checks import few
from danceopd_ext.lora.lora_file import LoraFile
from danceopd_ext.lora.metadata import with_hashes
from danceopd_ext.lora.read import is_swapped, swap_halves, to_lora
from danceopd_ext.lora.weights import Lora, LowRank
from danceopd_ext.models.layout import Layout, is_outer

FORMATS = ("kohya", "diffusers", "comfyui")

_SMALLER = "Set --rank for `convert`, or use the file as it is: a teacher can be any kind of LoRA."


def write_lora(
    path: str | os.PathLike,
    lora: Lora,
    layout: Layout,
    format: str,
    metadata: Mapping[str, object] | None = None,
    dtype: torch.dtype = torch.bfloat16,
) -> Path:
    """Write `lora` to `path` (.safetensors) and check that reading it gives the same changes.

    `format`: "diffusers" (`transformer.*`), "comfyui" (`diffusion_model.*`) or "kohya" (`lora_unet_*`). `metadata`:
    entries of the file, by default the LoRA's own; hashes are added. Raises UserError for a format, path or value
    that cannot be written, such as a DoRA or a product of high rank, and RuntimeError if the file does not read back
    within the rounding of `dtype`.
    """
    path = Path(path)
    if format not in FORMATS:
        raise UserError(f'unknown LoRA format "{format}". Choose one of {", ".join(FORMATS)}.')
    if path.suffix != ".safetensors":
        raise UserError(f"{path}: the name of a LoRA file must end in .safetensors. Change it.")
    lora = balanced(low_rank(lora, _SMALLER), layout)
    tensors = to_tensors(lora, layout, format, dtype)
    _check_range(tensors, lora, dtype)
    entries = with_hashes(tensors, _entries(lora.metadata if metadata is None else metadata, tensors))
    with whole_file(path) as part:
        save_file(tensors, part, {"format": "pt", **entries})
        _check(to_lora(LoraFile(part, *read_tensors(part)), layout), lora, dtype)
    return path


def _check_range(tensors: Mapping[str, torch.Tensor], lora: Lora, dtype: torch.dtype) -> None:
    """Raise UserError if `dtype` cannot hold a value."""
    key = next((key for key, tensor in tensors.items() if not bool(tensor.isfinite().all())), None)
    if key is None:
        return
    label = f"{lora.name or 'LoRA'}: {key}"
    if not all(bool(tensor.isfinite().all()) for change in lora.modules.values() for tensor in change.tensors()):
        raise UserError(f"{label} has NaN or infinite values: the training diverged.")
    raise UserError(
        f"{label} has values that {str(dtype).removeprefix('torch.')} cannot hold. Write it in bfloat16 or float32 "
        "(--dtype bf16; in a preset save_precision)."
    )


def unread(layers: Iterable[str], layout: Layout, format: str) -> list[str]:
    """Return what other programs would not read of a LoRA of these diffusers layers in `format`."""
    outer, fate = [layer for layer in layers if is_outer(layer)], layout.outer_fate.get(format)
    if not (outer and fate):
        return []
    return [f"{few(outer)} are outside the blocks: in {format} names {fate}. In diffusers names they are read"]


def _entries(metadata: Mapping[str, object], tensors: Mapping[str, torch.Tensor]) -> dict[str, object]:
    """Return the metadata without entries about another file's tensors, and with this file's rank and alpha."""
    stale = ("lora_adapter_metadata", "format", "sshs_legacy_hash")
    entries = {key: value for key, value in metadata.items() if key not in stale}
    rank = max((min(tensor.shape) for tensor in tensors.values() if tensor.ndim == 2), default=0)
    own = {"ss_network_module": "networks.lora", "ss_network_dim": str(rank), "ss_network_alpha": str(float(rank))}
    return {**entries, **own} if any(key in entries for key in own) else entries


def to_tensors(lora: Lora, layout: Layout, format: str, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Return the file's tensors by key; `lora` is balanced."""
    names = {"kohya": layout.kohya_names, "comfyui": layout.comfyui_names, "diffusers": "diffusers"}[format]
    changes = to_native(lora, layout) if names == "native" else lora.modules
    tensors = {}
    for name, change in changes.items():
        # clones: safetensors refuses tensors that share memory, such as q, k and v of a fused LoRA
        down, up = (
            factor.detach().to("cpu", dtype, copy=True).contiguous() for factor in (change.down_RI, change.up_OR)
        )
        if format == "kohya":
            layer = "lora_unet_" + name.replace(".", "_")
            tensors[f"{layer}.lora_down.weight"], tensors[f"{layer}.lora_up.weight"] = down, up
            tensors[f"{layer}.alpha"] = torch.tensor(float(change.rank))  # float32: bfloat16 cannot represent 257
        else:
            layer = ("transformer." if format == "diffusers" else "diffusion_model.") + name
            tensors[f"{layer}.lora_A.weight"], tensors[f"{layer}.lora_B.weight"] = down, up
    return tensors


def balanced(lora: Lora, layout: Layout) -> Lora:
    """Shift powers of two between the factors so that both have about the same size: exact, and safe in float16.

    Layers that are fused natively are shifted together, so that downs they share stay equal.
    """
    groups = [[name for name in parts if name in lora.modules] for parts in layout.native.values()]
    grouped = {name for group in groups for name in group}
    groups += [[name] for name in lora.modules if name not in grouped]
    modules = dict.fromkeys(lora.modules)
    for group in filter(None, groups):
        changes = {name: _down_near_one(lora.modules[name]) for name in group}
        largest = max(_largest(change.up_OR) for change in changes.values())
        usable = largest and math.isfinite(largest)
        factor = 2.0 ** round(math.log2(largest) / 2) if usable else 1.0
        for name, change in changes.items():
            modules[name] = LowRank(change.down_RI * factor, change.up_OR / factor)
    return Lora(modules, lora.metadata, lora.name)


def _largest(factor: torch.Tensor) -> float:
    """Return the largest absolute entry; 0 for a factor without entries."""
    return float(factor.abs().max()) if factor.numel() else 0.0


def _down_near_one(change: LowRank) -> LowRank:
    """Scale the largest entry of down to between 1 and 2 by a power of two."""
    largest = _largest(change.down_RI)
    if not (largest and math.isfinite(largest)):
        return change
    factor = 2.0 ** -math.floor(math.log2(largest))
    return LowRank(change.down_RI * factor, change.up_OR / factor)


def to_native(lora: Lora, layout: Layout) -> dict[str, LowRank]:
    """Return changes by native name; fused layers get one exact change for all their parts.

    Raises UserError for a layer that has no native name.
    """
    changes, covered = {}, set()
    for native, parts in layout.native.items():
        present = {name: lora.modules[name] for name in parts if name in lora.modules}
        covered.update(present)
        if not present:
            continue
        swapped = {
            name: LowRank(change.down_RI, swap_halves(change.up_OR))
            if is_swapped(layout, name, change.shape)
            else change
            for name, change in present.items()
        }
        if len(parts) > 1:
            _check_fusible(swapped, parts, layout, lora.name)
        changes[native] = swapped[parts[0]] if len(parts) == 1 else _fuse(swapped, parts, layout)
    lost = [name for name in lora.modules if name not in covered]
    if lost:
        raise UserError(f"{lora.name or 'LoRA'}: {lost[0]} has no native name, so this format cannot store it.")
    return changes


def _check_fusible(present: Mapping[str, LowRank], parts: tuple[str, ...], layout: Layout, name: str) -> None:
    """Raise UserError unless the layers have the sizes of parts of one layer."""
    shares = dict(zip(parts, layout.shares(parts), strict=True))
    sizes = {part: (change.shape[0] / shares[part], change.shape[1]) for part, change in present.items()}
    first = next(iter(sizes))
    other = next((part for part in sizes if sizes[part] != sizes[first]), None)
    if other:
        raise UserError(
            f"{name or 'LoRA'}: {first} is {present[first].shape} (outputs, inputs) and {other} "
            f"{present[other].shape}, but this format fuses them into one layer. Download the file again, or use "
            "another LoRA."
        )


def _fuse(present: Mapping[str, LowRank], parts: tuple[str, ...], layout: Layout) -> LowRank:
    """Stack the outputs of `parts`, which may differ in number; a part without a change gets zero rows.

    Parts with the same down share it; else downs are stacked and up is block-diagonal: the rank is then the sum.
    """
    shares = dict(zip(parts, layout.shares(parts), strict=True))
    known, change = next(iter(present.items()))
    outputs = {part: change.shape[0] * share // shares[known] for part, share in shares.items()}
    changes, first = list(present.values()), change.down_RI
    if all(other.down_RI.shape == first.shape and torch.equal(other.down_RI, first) for other in changes):
        zeros = {part: first.new_zeros(outputs[part], first.shape[0]) for part in parts if part not in present}
        return LowRank(first, torch.cat([present[part].up_OR if part in present else zeros[part] for part in parts]))
    up = first.new_zeros(sum(outputs.values()), sum(other.rank for other in changes))
    row = column = 0
    for part in parts:
        if part in present:
            rank = present[part].rank
            up[row : row + outputs[part], column : column + rank] = present[part].up_OR
            column += rank
        row += outputs[part]
    return LowRank(torch.cat([present[part].down_RI for part in parts if part in present]), up)


def _check(written: Lora, lora: Lora, dtype: torch.dtype) -> None:
    """Raise RuntimeError unless the written file equals `lora`, up to rounding of the factors to `dtype`.

    Both changes are applied to a few random inputs; the bound on each output follows from |rounded - x| <= u |x|.
    """
    info = torch.finfo(dtype)
    unit, tiny = info.eps / 2 + 1e-12, info.smallest_normal
    generator = torch.Generator().manual_seed(0)
    for name, change in lora.modules.items():
        copy = written.modules.get(name)
        if copy is None or copy.shape != change.shape:
            raise RuntimeError(f"written LoRA reads back without {name}")
        up, down = change.up_OR.detach().cpu().double(), change.down_RI.detach().cpu().double()
        probe = torch.randn(change.shape[1], 4, generator=generator, dtype=torch.float64)
        error = copy.up_OR.double() @ (copy.down_RI.double() @ probe) - up @ (down @ probe)
        bound = (up.abs() + tiny) @ ((down.abs() + tiny) @ probe.abs()) * unit * 4
        if not bool((error.abs() <= bound).all()):
            raise RuntimeError(f"written LoRA reads back with a different change of {name}")
    extra = [name for name, change in written.modules.items() if name not in lora.modules and bool(change.up_OR.any())]
    if extra:
        raise RuntimeError(f"written LoRA reads back with an unexpected change of {extra[0]}")

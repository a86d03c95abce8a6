"""Summarises a LoRA file for people, and finds the family that it is for."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping

import torch

from danceopd_ext.errors import UserError, printable, shorten
from danceopd_ext.lora.checks import check_keys, few, left_out
from danceopd_ext.lora.dialects import OTHER_PARTS, PREFIXES, Group, Parsed, parse
from danceopd_ext.lora.families import candidates, distinct, guess_family, sizes_of, titles
from danceopd_ext.lora.lora_file import LoraFile
from danceopd_ext.lora.read import check_lora
from danceopd_ext.models.layout import Layout

_SHOWN_KEYS = 12
_LONG_VALUE = 200


def find_layout(file: LoraFile, layouts: Mapping[str, Layout]) -> Layout:
    """Return the layout that the file's layers fit best; a single layout is returned unchecked.

    Raises UserError if they fit no layout, or several equally well.
    """
    if len(layouts) == 1:
        return next(iter(layouts.values()))
    found = distinct(candidates(file.tensors, layouts.values()), file.tensors)
    if len(found) > 1:
        raise UserError(
            f"{file.path}: its layers have the same names in {titles(found)}, and their sizes do not show which it"
            f" is for. Choose with {_choices(found)}."
        )
    if not found:
        _check_kind(file)
        looks = guess_family(file.tensors)
        hint = f" They look like {looks}." if looks else ""
        names = titles(layouts.values(), ", ")
        raise UserError(
            f"{file.path}: its layers fit no supported family ({names}); first keys: {few(file.tensors)}.{hint}"
        )
    return found[0]


def _choices(found: Iterable[Layout]) -> str:
    return " or ".join(f"--family {layout.family}" for layout in found)


def _check_kind(file: LoraFile) -> None:
    """Raise UserError, with the reason, if the file is not a LoRA of any family."""
    nothing = Layout("", {}, {})
    parsed = parse(file.tensors, nothing)
    if parsed.empty or parsed.methods:
        check_keys(file, parsed, nothing, ignore_text_encoder=True, ignore_other_parts=True)


def describe(file: LoraFile, layouts: Mapping[str, Layout]) -> list[tuple[str, str]]:
    """Return lines of (what, value): family, dialect, layers, ranks, alphas, dtype, what does not fit, metadata."""
    found = candidates(file.tensors, layouts.values())
    layout = found[0] if found else Layout("", {}, {})
    parsed = parse(file.tensors, layout)
    lines = [("file", printable(str(file.path)))]
    if not (parsed.groups or parsed.unknown_layers):
        try:
            check_keys(file, parsed, layout, ignore_text_encoder=True, ignore_other_parts=True)
        except UserError as problem:
            lines.append(("usable", f"no: {problem}"))
        return lines + _metadata(file)
    lines += [("family", _family(file, found, parsed)), *_layers(file, parsed)]
    if parsed.text_encoder:
        lines.append(("text encoder", few(parsed.text_encoder)))
    if parsed.not_linear:
        lines.append(("other tensors", few([key for keys in parsed.not_linear.values() for key in keys])))
    unfit = [group.layer for group in parsed.unknown_layers] + parsed.other
    if found:
        lines.append(("does not fit", few(unfit, _SHOWN_KEYS) if unfit else "nothing"))
        asked = distinct(found, file.tensors)
        lines.append(("usable", _verdict(file, layout) if len(asked) == 1 else f"yes, if you choose {_choices(asked)}"))
        lines += [("note", note.removeprefix(f"{file.path.name}: ")) for note in left_out(file, parsed)]
    return lines + _metadata(file)


def _family(file: LoraFile, found: list[Layout], parsed: Parsed) -> str:
    """Return the family, with the published sizes that fit the file's sizes."""
    if not found:
        return f"{guess_family(file.tensors) or 'unknown'} (not supported)"
    if len(found) > 1:
        return f"{titles(found)}: their layers have the same names"
    sizes = sizes_of(found[0], parsed.groups, file.tensors)
    return " or ".join(size.title for size in sizes) or titles(found)


def _layers(file: LoraFile, parsed: Parsed) -> list[tuple[str, str]]:
    groups = parsed.groups or parsed.unknown_layers
    return [
        ("dialect", _dialect(groups)),
        ("layers", f"{len(groups)} in the file, {sum(len(group.base_layers) for group in groups)} in diffusers' names"),
        ("ranks", _counted(_rank(file, group) for group in groups)),
        ("alpha", _counted(_alpha(file, group) for group in groups)),
        ("dtype", _counted(str(tensor.dtype).removeprefix("torch.") for tensor in file.tensors.values())),
    ]


def _metadata(file: LoraFile) -> list[tuple[str, str]]:
    entries = [(printable(key), _readable(file.metadata[key])) for key in _keys(file)]
    return [("", "")] * bool(entries) + entries


def _keys(file: LoraFile) -> list[str]:
    """Return the keys of the metadata, most useful ones first."""
    keys = [key for key in file.metadata if key != "format"]
    return sorted(keys, key=lambda key: (not key.startswith("modelspec."), not key.startswith("ss_"), key))


def _verdict(file: LoraFile, layout: Layout) -> str:
    """Return whether the file can be used, and with which keys of a preset."""
    try:
        check_lora(file, layout, ignore_text_encoder=True, ignore_other_parts=True)
    except UserError as problem:
        return f"no: {problem}"
    parsed = parse(file.tensors, layout)
    keys = [
        ("ignore_text_encoder", parsed.text_encoder),
        ("ignore_other_parts", OTHER_PARTS.keys() & parsed.not_linear),
    ]
    needed = " and ".join(f"{key} = true" for key, found in keys if found)
    return f"yes, with {needed}" if needed else "yes"


def _dialect(groups: list[Group]) -> str:
    kinds = sorted({group.kind + " with DoRA" * ("DoRA" in group.parts) for group in groups})
    prefixes = sorted({_prefix(group.layer) for group in groups})
    if not any(group.base_layers for group in groups):
        names = "unknown"
    else:  # some layers have the same name in both
        names = "native" if any(group.native for group in groups) else "diffusers"
    return f"{', '.join(kinds)}; prefix {', '.join(prefixes)}; {names} names"


def _prefix(layer: str) -> str:
    return next((prefix for prefix in PREFIXES if layer.startswith(prefix)), "none")


def _rank(file: LoraFile, group: Group) -> str:
    for part in ("down", "hada_w1_b", "lokr_w1_b", "lokr_w2_b"):
        if part in group.parts and file.tensors[group.parts[part]].ndim:
            return str(file.tensors[group.parts[part]].shape[0])
    return "full" if group.kind in ("LoKr", "difference") else "unknown"


def _alpha(file: LoraFile, group: Group) -> str:
    if "alpha" in group.parts:
        values = file.tensors[group.parts["alpha"]].float().flatten().unique()
        return " and ".join(f"{float(value):g}" for value in values[:3]) + " and more" * (len(values) > 3) or "no value"
    config = file.config if isinstance(file.config, dict) else {}
    alpha = config.get("lora_alpha" if group.kind == "LoRA" else "alpha")
    if alpha is not None:
        return f"{shorten(str(alpha))} (adapter_config.json)"
    return "in the metadata" if "lora_adapter_metadata" in file.metadata else "none, so equal to the rank"


def _counted(values: Iterable[str]) -> str:
    counts = Counter(values).most_common()
    return counts[0][0] if len(counts) == 1 else ", ".join(f"{value} ({count} times)" for value, count in counts)


def _readable(value: str) -> str:
    """Return the value on one line; long values, such as tag counts and thumbnails, are shortened."""
    try:
        value = json.dumps(json.loads(value), ensure_ascii=False)
    except (ValueError, RecursionError):
        value = " ".join(value.split())
    value = printable(value)
    return value if len(value) <= _LONG_VALUE else f"{value[:_LONG_VALUE]}… ({len(value)} characters)"


def main_dtype(file: LoraFile) -> torch.dtype:
    """Return the most common dtype of the file's tensors that LoRA files can be written in; otherwise bfloat16."""
    usual = (torch.float32, torch.float16, torch.bfloat16)
    counts = Counter(tensor.dtype for tensor in file.tensors.values() if tensor.dtype in usual and tensor.ndim >= 2)
    return counts.most_common(1)[0][0] if counts else torch.bfloat16

"""What a LoRA file holds, for a person to read."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping

import torch

from danceopd_ext.errors import UserError
from danceopd_ext.lora.dialects import OUR_NAMES, PREFIXES, TEXT_ENCODER, Group, best_layout, guess_family, parse
from danceopd_ext.lora.layout import Layout
from danceopd_ext.lora.read import check_lora, few, no_lora
from danceopd_ext.lora.source import Source

_SHOWN_KEYS = 12
_LONG_VALUE = 200


def find_layout(source: Source, layouts: Mapping[str, Layout]) -> Layout:
    """The family that the file's layers fit best. Raises UserError when they fit none."""
    layout = best_layout(source.tensors, layouts)
    if layout is None:
        if parse(source.tensors, Layout("", {}, {})).empty:
            raise UserError(no_lora(source))
        looks = guess_family(source.tensors)
        hint = f" They look like {looks}." if looks else ""
        names = ", ".join(OUR_NAMES.get(name, name) for name in layouts)
        raise UserError(
            f"{source.path}: its layers fit no family known here ({names}); first keys: {few(source.tensors)}.{hint}"
        )
    return layout


def describe(source: Source, layouts: Mapping[str, Layout]) -> list[tuple[str, str]]:
    """Lines of (what, value): family, dialect, layers, ranks, alphas, dtype, what does not fit, metadata."""
    layout = best_layout(source.tensors, layouts)
    parsed = parse(source.tensors, layout or Layout("", {}, {}))
    if parsed.empty:
        return [("file", str(source.path)), ("usable", f"no: {no_lora(source)}")]
    groups = parsed.groups or parsed.strangers
    family = OUR_NAMES.get(layout.family, layout.family) if layout else (guess_family(source.tensors) or "unknown")
    lines = [
        ("file", str(source.path)),
        ("family", family if layout else f"{family} (not supported here)"),
        ("dialect", _dialect(groups)),
        ("layers", f"{len(groups)} in the file, {sum(len(group.targets) for group in groups)} in diffusers' names"),
        ("ranks", _counted(_rank(source, group) for group in groups)),
        ("alpha", _counted(_alpha(source, group) for group in groups)),
        ("dtype", _counted(str(tensor.dtype).removeprefix("torch.") for tensor in source.tensors.values())),
    ]
    if parsed.text_encoder:
        lines.append(("text encoder", few(parsed.text_encoder)))
    unfit = [group.layer for group in parsed.strangers] + parsed.other
    if layout:
        lines.append(("does not fit", few(unfit, _SHOWN_KEYS) if unfit else "nothing"))
        lines.append(("usable", _verdict(source, layout)))
    return (
        lines + [("", "")] * bool(source.metadata) + [(key, _readable(source.metadata[key])) for key in _keys(source)]
    )


def _keys(source: Source) -> list[str]:
    """Metadata entries, what people look for first."""
    keys = [key for key in source.metadata if key != "format"]
    return sorted(keys, key=lambda key: (not key.startswith("modelspec."), not key.startswith("ss_"), key))


def _verdict(source: Source, layout: Layout) -> str:
    try:
        check_lora(source, layout, ignore_text_encoder=any(TEXT_ENCODER.match(key) for key in source.tensors))
    except UserError as problem:
        return f"no: {problem}"
    return "yes"


def _dialect(groups: list[Group]) -> str:
    kinds = sorted({group.kind + " with DoRA" * ("DoRA" in group.parts) for group in groups})
    prefixes = sorted({_prefix(group.layer) for group in groups})
    if not any(group.targets for group in groups):
        names = "unknown"
    else:  # some layers have the same name in both
        names = "native" if any(group.native for group in groups) else "diffusers"
    return f"{', '.join(kinds)}; prefix {', '.join(prefixes)}; {names} names"


def _prefix(layer: str) -> str:
    return next((prefix for prefix in PREFIXES if layer.startswith(prefix)), "none")


def _rank(source: Source, group: Group) -> str:
    for part in ("down", "hada_w1_b", "lokr_w1_b", "lokr_w2_b"):
        if part in group.parts and source.tensors[group.parts[part]].ndim:
            return str(source.tensors[group.parts[part]].shape[0])
    return "full" if group.kind == "LoKr" else "unknown"


def _alpha(source: Source, group: Group) -> str:
    if "alpha" in group.parts:
        values = source.tensors[group.parts["alpha"]].float().flatten().unique()
        return " and ".join(f"{float(value):g}" for value in values) or "no value"
    config = source.config if isinstance(source.config, dict) else {}
    alpha = config.get("lora_alpha" if group.kind == "LoRA" else "alpha")
    if alpha is not None:
        return f"{alpha} (adapter_config.json)"
    return "in the metadata" if "lora_adapter_metadata" in source.metadata else "none, so equal to the rank"


def _counted(values: Iterable[str]) -> str:
    counts = Counter(values).most_common()
    return counts[0][0] if len(counts) == 1 else ", ".join(f"{value} ({count} times)" for value, count in counts)


def _readable(value: str) -> str:
    """One line; long values, such as tag counts and thumbnails, are cut."""
    try:
        value = json.dumps(json.loads(value), ensure_ascii=False)
    except ValueError:
        value = " ".join(value.split())
    return value if len(value) <= _LONG_VALUE else f"{value[:_LONG_VALUE]}… ({len(value)} characters)"


def main_dtype(source: Source) -> torch.dtype:
    """The dtype that most of the file's tensors have, of those that LoRA files are written in; else bfloat16."""
    usual = (torch.float32, torch.float16, torch.bfloat16)
    counts = Counter(tensor.dtype for tensor in source.tensors.values() if tensor.dtype in usual and tensor.ndim >= 2)
    return counts.most_common(1)[0][0] if counts else torch.bfloat16

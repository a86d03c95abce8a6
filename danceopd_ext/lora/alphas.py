"""The strength of a layer's change, from the file's alpha or from what stands beside the tensors.

Two rules exist. kohya's and LyCORIS' files hold an `.alpha` per layer, to be divided by the rank of its factors; a LoKr
of two whole factors has no rank and no scale. PEFT writes alphas into adapter_config.json, diffusers into the metadata
entry lora_adapter_metadata, and both divide by the rank that is written there, whatever the factors are.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping

from danceopd_ext.errors import UserError
from danceopd_ext.lora.source import Source

#: (layer as the file writes it, kind, rank of its factors or None for whole ones) -> what the product is multiplied by
ScaleRule = Callable[[str, str, "int | None"], float]

_METADATA = "lora_adapter_metadata"


def by_rank(alpha: float | None, rank: int | None) -> float:
    """LyCORIS' rule, which sd-scripts has too: an absent or zero alpha means alpha = rank."""
    return alpha / rank if alpha and rank else 1.0


def scale_rule(source: Source) -> ScaleRule:
    """The rule for layers without an alpha of their own. Raises UserError for a configuration that is not one."""
    where, config = _config(source)
    patterns = {key: _patterns(where, config, key) for key in ("alpha_pattern", "rank_pattern")}
    numbers = {key: _number(where, key, config.get(key)) for key in ("lora_alpha", "alpha", "r")}
    if numbers["r"] == 0:
        raise UserError(f"{where}: r is 0: a LoRA has a rank of at least 1. Download the adapter again.")

    def scale(layer: str, kind: str, rank: int | None) -> float:
        default = numbers["lora_alpha" if kind == "LoRA" else "alpha"]
        alpha = _of_layer(patterns["alpha_pattern"], layer, default)
        if alpha is None:
            return 1.0
        if kind != "LoRA":  # PEFT divides by the rank of its settings, also where a factor is whole
            return alpha / (_of_layer(patterns["rank_pattern"], layer, numbers["r"]) or rank or 1)
        return alpha / (rank**0.5 if config.get("use_rslora") else rank)

    return scale


def _config(source: Source) -> tuple[str, dict]:
    """Where the settings stand, for messages, and the settings, which are empty when there are none."""
    where, config = f"{source.path.parent / 'adapter_config.json'}", source.config
    if not config and _METADATA in source.metadata:
        where = f"{source.path}: metadata entry {_METADATA}"
        try:
            config = json.loads(source.metadata[_METADATA])
        except (TypeError, ValueError) as problem:
            raise UserError(f"{where} is not JSON. Download the file again.") from problem
        if isinstance(config, dict):
            config = {key.removeprefix("transformer."): value for key, value in config.items()}
    if config is None or config == {}:
        return where, {}
    if not isinstance(config, dict):
        raise UserError(f"{where}: a table of settings is needed, not {_shown(config)}. Download the adapter again.")
    return where, config


def _patterns(where: str, config: Mapping[str, object], key: str) -> dict[re.Pattern, float]:
    """PEFT's rule: a pattern is a regular expression for the end of a layer's name, from a dot on."""
    table = config.get(key) or {}
    if not isinstance(table, dict):
        raise UserError(f"{where}: {key} must be a table of layer = number, not {_shown(table)}.")
    found = {}
    for pattern, value in table.items():
        number = _number(where, f"{key}.{pattern}", value)
        if not number and (number is None or key == "rank_pattern"):
            raise UserError(f"{where}: {key}.{pattern} must be a number above 0, not {_shown(value)}.")
        try:
            found[re.compile(rf"(.*\.)?({pattern.lstrip('^')})$")] = number
        except re.error as problem:
            raise UserError(f"{where}: {key}: {_shown(pattern)} is not a regular expression ({problem}).") from problem
    return found


def _of_layer(patterns: Mapping[re.Pattern, float], layer: str, default: float | None) -> float | None:
    return next((value for pattern, value in patterns.items() if pattern.match(layer)), default)


def _number(where: str, key: str, value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise UserError(f"{where}: {key} must be a number, not {_shown(value)}.")
    return value


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:60]}…"

"""Computes the scale of a layer's change from the file's alpha or from the settings that come with it.

Two rules exist. kohya's and LyCORIS' files hold an `.alpha` per layer, which is divided by the rank of its factors; a
LoKr of two whole factors has neither rank nor scale. PEFT writes alphas into adapter_config.json, diffusers into the
metadata entry lora_adapter_metadata, and both divide by the rank that is written there, whatever the factors are.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import regex

from danceopd_ext.errors import UserError, printable, shorten
from danceopd_ext.foreign.json import shown
from danceopd_ext.lora.lora_file import ADAPTER_ENTRY, LoraFile, adapter_settings

#: (layer as the file writes it, kind, rank of its factors or None for whole ones) -> what the product is multiplied by
ScaleRule = Callable[[str, str, "int | None"], float]

#: a rank is at most the size of a layer, and a LoRA is multiplied by alpha / rank: in real files by 1000 at most
LARGEST_RANK, LARGEST_SCALE = 2**20, 1e6
#: a pattern that is just a layer's name
_NAME = re.compile(r"[\w.-]+")
#: characters of a pattern, and seconds for all matches of one file: some expressions never finish
LONGEST_PATTERN, SECONDS = 1000, 2.0


def by_rank(alpha: float | None, rank: int | None) -> float:
    """Apply LyCORIS' rule, which sd-scripts shares: an absent or zero alpha means alpha = rank."""
    return alpha / rank if alpha and rank else 1.0


def check_scale(where: str, scale: float) -> float:
    """Return what a change is multiplied by, `scale`. Raises UserError, which begins with `where`, for a huge one."""
    if not abs(scale) <= LARGEST_SCALE:
        raise UserError(
            f"{where}: alpha divided by the rank is {scale:g}; the largest accepted value is {LARGEST_SCALE:,g}. "
            "Download the file again, or ask its author for it."
        )
    return scale


def scale_rule(file: LoraFile) -> ScaleRule:
    """The rule for layers without an alpha of their own. Raises UserError for a configuration that is not one."""
    where, config = _config(file)
    patterns = {key: _patterns(where, config, key) for key in ("alpha_pattern", "rank_pattern")}
    numbers = {key: _number(where, key, config.get(key)) for key in ("lora_alpha", "alpha", "r")}
    if numbers["r"] is not None:
        _check_rank(where, "r", numbers["r"])

    def scale(layer: str, kind: str, rank: int | None) -> float:
        default = numbers["lora_alpha" if kind == "LoRA" else "alpha"]
        alpha = patterns["alpha_pattern"].of(layer, default)
        if alpha is None:
            return 1.0
        if kind != "LoRA":  # PEFT divides by the rank of its settings, even if a factor is whole
            return check_scale(where, alpha / (patterns["rank_pattern"].of(layer, numbers["r"]) or rank or 1))
        return check_scale(where, alpha / (rank**0.5 if config.get("use_rslora") else rank))

    return scale


def _config(file: LoraFile) -> tuple[str, dict]:
    """Return the place of the settings, for messages, and the settings; empty if there are no settings."""
    where, config = f"{file.path.parent / 'adapter_config.json'}", file.config
    if not config and ADAPTER_ENTRY in file.metadata:
        where = f"{file.path}: metadata entry {ADAPTER_ENTRY}"
        config = adapter_settings(file.metadata[ADAPTER_ENTRY], where)
        config = {key.removeprefix("transformer."): value for key, value in config.items()}
    return where, config


@dataclass
class _Patterns:
    """PEFT's rule: a pattern is a regular expression for the end of a layer's name, from a dot on; the first counts.

    Plain names, which most of them are, are compared as such. `where`: for messages. `names`, `expressions`: pattern ->
    (its place in the table, its number).
    """

    where: str
    names: dict[str, tuple[int, float]] = field(default_factory=dict)
    expressions: dict[regex.Pattern, tuple[int, float]] = field(default_factory=dict)
    seconds: float = field(default_factory=lambda: SECONDS)

    def of(self, layer: str, default: float | None) -> float | None:
        """The number of the first pattern that the layer matches. Raises UserError if matching takes too long."""
        parts = layer.split(".")
        ends = (".".join(parts[first:]) for first in range(len(parts)))
        found = [self.names[end] for end in ends if end in self.names]
        found += [entry for pattern, entry in self.expressions.items() if self._matches(pattern, layer)]
        return min(found)[1] if found else default

    def _matches(self, pattern: regex.Pattern, layer: str) -> bool:
        started = time.monotonic()
        try:
            return pattern.match(layer, timeout=max(self.seconds, 1e-3)) is not None
        except (TimeoutError, MemoryError):
            raise UserError(
                f"{self.where}: matching its patterns takes longer than {SECONDS:g} s, such as "
                f"{shorten(printable(pattern.pattern), 120)}. Use layer names instead of patterns."
            ) from None
        finally:
            self.seconds -= time.monotonic() - started


def _patterns(where: str, config: Mapping[str, object], key: str) -> _Patterns:
    table = config.get(key) or {}
    if not isinstance(table, dict):
        raise UserError(f"{where}: {key} must be a table of layer = number, not {shown(table)}.")
    found = _Patterns(f"{where}: {key}")
    for place, (pattern, value) in enumerate(table.items()):
        name = f"{key}.{shorten(printable(pattern))}"
        number = _number(where, name, value)
        if number is None or (number == 0 and key == "rank_pattern"):
            raise UserError(f"{where}: {name} must be a number above 0, not {shown(value)}.")
        if key == "rank_pattern":
            _check_rank(where, name, number)
        pattern = pattern.lstrip("^")
        if _NAME.fullmatch(pattern):
            found.names.setdefault(pattern, (place, number))
        else:
            found.expressions[_compiled(where, key, pattern)] = place, number
    return found


def _compiled(where: str, key: str, pattern: str) -> regex.Pattern:
    """The pattern as PEFT asks for it. Python's own `re` cannot be stopped once it matches; `regex` can."""
    if len(pattern) > LONGEST_PATTERN:
        raise UserError(f"{where}: {key}: a pattern has {len(pattern):,} characters: {shorten(printable(pattern))}.")
    try:
        return regex.compile(rf"(.*\.)?({pattern})$")
    except (regex.error, ValueError, OverflowError, RecursionError, MemoryError) as problem:
        raise UserError(f"{where}: {key}: {shown(pattern)} is not a regular expression ({problem}).") from problem


def _check_rank(where: str, key: str, rank: float) -> None:
    if rank == 0:
        raise UserError(f"{where}: {key} is 0; expected a rank of at least 1. Download the adapter again.")
    if not 1 <= rank <= LARGEST_RANK or rank != int(rank):
        raise UserError(
            f"{where}: {key} = {rank:g}: expected a whole number from 1 to {LARGEST_RANK:,}. Download the adapter "
            "again."
        )


def _number(where: str, key: str, value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UserError(f"{where}: {key} must be a number, not {shown(value)}.")
    return value

"""Refuses a toolkit's arguments that make no sense with this method, before anything is loaded.

If they were ignored silently, the LoRA would not be trained as the preset says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from danceopd_ext.errors import UserError
from danceopd_ext.toolkits.hosted.arguments import Arguments

#: (the value that was given, the parser's default) -> whether it is refused
Test = Callable[[Any, Any], bool]


@dataclass(frozen=True)
class Rule:
    """key: the argument. wrong: which of its values are refused. reason and remedy: a sentence each.

    beside, without: the rule only applies if this other argument is also on, or is off.
    """

    key: str
    wrong: Test
    reason: str
    remedy: str = "Remove it."
    beside: str | None = None
    without: str | None = None


def switched_on(value: Any, default: Any) -> bool:
    """Return whether the value is anything but false, 0, nothing, or a list of these."""
    return any(value) if isinstance(value, list) else bool(value)


def switched_off(value: Any, default: Any) -> bool:
    """Return whether the value is false."""
    return value is False


def changed(value: Any, default: Any) -> bool:
    """Return whether the value differs from the toolkit's own default."""
    return value != default


def one_of(*refused: Any) -> Test:
    """Return a test for these values."""
    return lambda value, default: value in refused


def other_than(*allowed: Any) -> Test:
    """Return a test for anything but these values."""
    return lambda value, default: value not in allowed


def entry(text: str) -> Test:
    """Return a test for a list of key=value texts that contains this one, in any case."""
    return lambda value, default: any(one.replace(" ", "").lower() == text.lower() for one in value or [])


def rules(keys: str, wrong: Test, reason: str, remedy: str = "Remove it.") -> tuple[Rule, ...]:
    """Return the same rule for several keys, separated by spaces."""
    return tuple(Rule(key, wrong, reason, remedy) for key in keys.split())


#: rules that both toolkits need
QUERY_DECIDES = "noise levels are not random: the student is queried on its own path from noise to picture."
SHOWS_TIMESTEPS = Rule("show_timesteps", switched_on, "the toolkit would show noise levels and stop without training.")
SCALED_BASE_WEIGHTS = Rule(
    "fp8_scaled",
    switched_on,
    "base_weights are merged into fp8 weights without their scale, which gives wrong weights.",
    "Merge them into the model's file first, or remove one of the two.",
    beside="base_weights",
)


def timestep_range(remedy: str) -> tuple[Rule, ...]:
    """Return the rules that refuse limits of the noise levels, which this method does not draw."""
    return (
        *rules("min_timestep", other_than(0), QUERY_DECIDES, remedy),
        *rules("max_timestep", other_than(1000), QUERY_DECIDES, remedy),
    )


def refuse(arguments: Arguments, rules: Iterable[Rule]) -> None:
    """Raise UserError, one message for all given arguments that are refused, with reason and remedy."""
    found: dict[str, list[str]] = {}
    for rule in rules:
        if _broken(rule, arguments):
            found.setdefault(f"{rule.reason} {rule.remedy}", []).append(arguments.given[rule.key])
    if not found:
        return
    parts = [f"{', '.join(given)}: {why}" for why, given in found.items()]
    if len(parts) == 1:
        raise UserError(f"{arguments.path}: {parts[0]}")
    raise UserError("\n- ".join([f"{arguments.path}: this method does not support these arguments.", *parts]))


def _broken(rule: Rule, arguments: Arguments) -> bool:
    if rule.key not in arguments.given:
        return False
    values = vars(arguments.namespace)
    if rule.beside and not switched_on(values.get(rule.beside), None):
        return False
    if rule.without and switched_on(values.get(rule.without), None):
        return False
    return rule.wrong(values[rule.key], arguments.defaults.get(rule.key))

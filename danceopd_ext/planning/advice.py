"""Finds the smallest changes of a preset that make a run fit, the cheapest first, as lines to paste."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from danceopd_ext.config.load import flat_keys
from danceopd_ext.config.toml_text import toml_text
from danceopd_ext.engine.block_swap import most_swapped
from danceopd_ext.planning.cards import Card
from danceopd_ext.planning.hours import Hours, hours_of
from danceopd_ext.planning.phases import GIB, Memory
from danceopd_ext.planning.work import Work

#: what CUDA's context takes of a card, in GiB: 0.3 to 0.5 on current drivers, with cuBLAS's workspaces
CONTEXT = 0.4
#: the share of a card that fragments of torch's allocator and the desktop take
LOST = 0.04
#: most suggestions that are shown
MOST = 3


@dataclass(frozen=True)
class Change:
    """Keys to set. `penalty`: what it costs besides time, in shares of the run's time. `cost`: in words."""

    keys: Mapping[str, Any]
    penalty: float = 0.0
    cost: str = ""


@dataclass(frozen=True)
class Suggestion:
    """Changes that make the run fit, with the memory and time that follow. `lines`: TOML."""

    changes: Sequence[Change]
    memory: Memory
    hours: Hours

    @property
    def keys(self) -> dict[str, Any]:
        return {key: value for change in self.changes for key, value in change.keys.items()}

    @property
    def lines(self) -> list[str]:
        sections = flat_keys()
        return [f"{key} = {toml_text(value)}  # [{sections[key]}]" for key, value in self.keys.items()]

    @property
    def costs(self) -> list[str]:
        return [change.cost for change in self.changes if change.cost]


def usable(memory: float) -> float:
    """Return how many GiB of a card's memory the run's tensors can have."""
    return memory * (1 - LOST) - CONTEXT


def fits(memory: Memory, card: Card) -> bool:
    """Return whether the run fits into the card."""
    return memory.peak.total <= usable(card.memory) * GIB


def suggestions(memory: Memory, card: Card) -> list[Suggestion]:
    """Return the cheapest ways to make the run fit, each of another kind; none if nothing that is known does.

    Smaller pictures, which have to be counted and which a person sees, are tried if nothing else does.
    """
    for sizes in ([[]], _sizes(memory.work)):
        chosen: dict[tuple, Suggestion] = {}
        for _, kind, suggestion in sorted(_fitting(memory, card, sizes), key=lambda one: one[0]):
            chosen.setdefault(kind, suggestion)
        if chosen:
            return list(chosen.values())[:MOST]
    return []


def _fitting(
    memory: Memory, card: Card, sizes: Sequence[Sequence[Change]]
) -> Iterator[tuple[float, tuple, Suggestion]]:
    """Yield cost, kind and changes of each combination that fits, with the fewest swapped blocks."""
    free = _free(memory)
    with_free = memory.with_work(_changed(memory.work, free))
    for smaller, quantised, together in product(sizes, _quantised(memory), _together(with_free)):
        changes = [*free, *smaller, *quantised, *together]
        planned = memory.with_work(_changed(memory.work, changes)) if changes != free else with_free
        swapped = _fewest_blocks(planned, card)
        if swapped is None:
            continue
        if swapped != planned.preset.training.blocks_to_swap:
            changes.append(Change({"blocks_to_swap": swapped}))
            planned = memory.with_work(_changed(memory.work, changes))
        hours = hours_of(planned, card)
        slower = hours.step / hours_of(memory.with_work(_changed(memory.work, smaller)), card).step
        cost = slower * (1 + sum(change.penalty for change in changes))
        if changes:
            kind = bool(smaller), bool(quantised), swapped > 0
            yield cost, kind, Suggestion(changes, planned, hours)


def _free(memory: Memory) -> list[Change]:
    """Changes that cost little and are always made first."""
    training, optimizer, found = memory.preset.training, memory.preset.optimizer, []
    if not training.gradient_checkpointing:
        found.append(Change({"gradient_checkpointing": True}, cost="a forward more in each gradient pass"))
    if optimizer.optimizer_type.lower() == "adamw":
        found.append(Change({"optimizer_type": "AdamW8bit"}, cost="needs bitsandbytes"))
    if memory.work.matched > 1:
        if memory.preset.danceopd.match_batch_size:
            found.append(Change({"match_batch_size": 1}))
        else:
            batch = training.train_batch_size * training.gradient_accumulation_steps
            found.append(Change({"train_batch_size": 1, "gradient_accumulation_steps": batch}))
    return found


def _sizes(work: Work) -> list[list[Change]]:
    """Smaller pictures, if the preset alone decides about sizes."""
    if work.preset.dataset.dataset_config:
        return []
    now = max(width * height for width, height in work.sizes) ** 0.5
    smaller = [side for side in (768, 512) if side < now]
    costs = "the student learns at {0} pixels, which shows in small details"
    return [[Change({"resolution": side}, 0.6 * now / side, costs.format(side))] for side in smaller]


def _quantised(memory: Memory) -> list[list[Change]]:
    if memory.preset.quantize:
        return [[]]
    words = {"int8": (0.02, "an error of 0.8 % in each layer"), "fp8": (0.05, "an error of 2.6 % in each layer"),
             "nf4": (0.25, "an error of about 9 % in each layer; needs bitsandbytes")}  # fmt: skip
    return [[], *([Change({"quantize": word}, penalty, cost)] for word, (penalty, cost) in words.items())]


def _together(memory: Memory) -> list[list[Change]]:
    """All samples roll out together, or one by one if that is where most memory is needed."""
    largest = memory.rolling().total > max(memory.matching().total, memory.stepping().total)
    return [[], [Change({"rollout_batch_size": 1}, 0.01)]] if memory.work.together > 1 and largest else [[]]


def _fewest_blocks(memory: Memory, card: Card) -> int | None:
    """Return the least blocks_to_swap with which the run fits; None if none does."""
    now = memory.preset.training.blocks_to_swap
    if fits(memory, card):
        return now
    family = memory.work.blueprint.family
    most = most_swapped(family.count_blocks(memory.counts.shapes))
    if not _with_blocks_fits(memory, card, most):
        return None
    low, high = now, most  # the first does not fit, the second does
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _with_blocks_fits(memory, card, middle) else (middle, high)
    return high


def _with_blocks_fits(memory: Memory, card: Card, swapped: int) -> bool:
    return fits(memory.with_work(_changed(memory.work, [Change({"blocks_to_swap": swapped})])), card)


def _changed(work: Work, changes: Sequence[Change]) -> Work:
    """Return the run with these keys."""
    keys = {key: value for change in changes for key, value in change.keys.items()}
    resolution = keys.pop("resolution", None)
    preset, sections = work.preset, flat_keys()
    for key, value in keys.items():
        section = sections[key]
        preset = replace(preset, **{section: replace(getattr(preset, section), **{key: value})})
    work = replace(work, preset=preset)
    return work.at(resolution) if resolution else work

"""Runs `python -m danceopd_ext plan preset.toml`."""

from __future__ import annotations

from dataclasses import replace

import torch

from danceopd_ext.config import Preset, load_preset
from danceopd_ext.config.hosted_preset import split_preset
from danceopd_ext.config.toml_text import toml_text
from danceopd_ext.config.toolkits import NATIVE
from danceopd_ext.errors import UserError, printable
from danceopd_ext.planning.advice import fits, suggestions
from danceopd_ext.planning.cards import TYPICAL, Card, find_card, typical_card
from danceopd_ext.planning.disk import disk_of
from danceopd_ext.planning.hours import hours_of
from danceopd_ext.planning.measure import measured_pace
from danceopd_ext.planning.of_preset import work_of_preset
from danceopd_ext.planning.phases import GIB, Memory
from danceopd_ext.planning.report import duration, gib, tables

#: GiB of the cards that a preset's header speaks of
CARD_SIZES = (8, 12, 16, 24)
#: GiB of the card that is planned for if none is named and none is there
USUAL_CARD = 12


def plan(preset: str, overrides: dict[str, list[str]], vram: float | None = None, card: str | None = None) -> list[str]:
    """Return the plan of a preset file, line by line. `overrides`: preset keys, as training takes them.

    Raises UserError for a wrong preset, an unknown card, and a model about which nothing is known.
    """
    chosen = card_of(vram, card)  # before anything that takes long
    loaded = native_preset(preset, overrides)
    memory = Memory(work_of_preset(loaded))
    if not memory.work.trains:
        raise UserError(f'method = "{loaded.danceopd.method}" trains nothing, so there is nothing to plan.')
    pace, how = measured_pace(memory, chosen) if not card and torch.cuda.is_available() else (1.0, "")
    hours = hours_of(memory, chosen, pace, how)
    advice = [] if fits(memory, chosen) else suggestions(memory, chosen)
    notes = [f"note: {note}" for note in loaded.notes]
    return [printable(line) for line in [*notes, *tables(memory, chosen, hours, disk_of(memory), advice)]]


def plan_for_cards(preset: str, overrides: dict[str, list[str]]) -> list[str]:
    """Return what to set for each usual size of card, with memory and hours: the lines of a preset's header.

    Raises UserError as `plan` does.
    """
    memory = Memory(work_of_preset(native_preset(preset, overrides)))
    lines = []
    for size in CARD_SIZES:
        card = typical_card(size)
        found = None if fits(memory, card) else suggestions(memory, card)
        best = found[0] if found else None
        if found is not None and not best:
            lines.append(f"{size:>2} GB  no change makes it fit")
            continue
        chosen, keys = (best.memory, best.keys) if best else (memory, {})
        words = ", ".join(f"{key} = {toml_text(value)}" for key, value in keys.items()) or "as it is"
        hours = duration(hours_of(chosen, card))
        lines.append(f"{size:>2} GB  {words}: {gib(chosen.peak.total)} GiB, {hours} on an {TYPICAL[size]}")
    return lines


def native_preset(preset: str, overrides: dict[str, list[str]]) -> Preset:
    """Return the preset of a native run. Raises UserError, also for one that runs in a toolkit."""
    hosted = split_preset(preset, overrides)
    if hosted:
        raise UserError(
            f'{preset}: toolkit = "{hosted.toolkit}" runs in that toolkit, whose memory cannot be counted here. Plan a '
            f'preset of the same model with toolkit = "{NATIVE.name}": the method does the same work there.'
        )
    return load_preset(preset, overrides)


def card_of(vram: float | None = None, name: str | None = None) -> Card:
    """Return the card to plan for: the named one, one with this much memory, this machine's, or one of 12 GB.

    Raises UserError for an unknown name.
    """
    if name:
        card = find_card(name, vram)
        return replace(card, memory=vram) if vram else card
    if vram:
        return typical_card(vram)
    return this_card() or typical_card(USUAL_CARD)


def this_card(device: torch.device | None = None) -> Card | None:
    """Return this machine's card, None if there is none. One that is not in the table is as fast as others its size."""
    if not torch.cuda.is_available():
        return None
    properties = torch.cuda.get_device_properties(device or torch.cuda.current_device())
    memory = round(properties.total_memory / GIB, 1)
    try:
        card = find_card(properties.name, memory)
    except UserError:
        card = typical_card(memory)
    return replace(card, name=properties.name, memory=memory)

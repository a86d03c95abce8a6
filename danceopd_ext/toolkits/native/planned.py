"""Tells at the start of a run what it will need, and what to change when memory runs out."""

from __future__ import annotations

from dataclasses import replace

from danceopd_ext.planning.advice import CONTEXT, LOST, suggestions, usable
from danceopd_ext.planning.blueprint import Blueprint, blueprint_of_folder
from danceopd_ext.planning.cards import Card
from danceopd_ext.planning.command import this_card
from danceopd_ext.planning.disk import disk_of
from danceopd_ext.planning.hours import hours_of
from danceopd_ext.planning.of_preset import work_of_preset
from danceopd_ext.planning.phases import GIB, Memory
from danceopd_ext.planning.report import advise, three_lines
from danceopd_ext.toolkits.native.run_plan import RunPlan

#: parameters below which nobody has to plan: counting would take longer than loading
SMALL = 1e8


def plan_lines(plan: RunPlan) -> list[str]:
    """Return the plan of a run in three lines; nothing for a small model.

    What goes wrong here does not end a training: it returns a note instead.
    """
    if _is_small(plan):
        return []
    try:
        memory, card = _memory(plan), card_of_run(plan)
        return three_lines(memory, card, hours_of(memory, card) if card else None, disk_of(memory))
    except Exception as error:  # an attention backend or a model may do what cannot be counted without a GPU
        return [f"note: this run cannot be planned ({type(error).__name__}: {str(error)[:200]})"]


def advice(plan: RunPlan, otherwise: str) -> str:
    """Return what to change after memory ran out, as lines to paste; `otherwise` if nothing can be said."""
    card = card_of_run(plan)
    if card is None or _is_small(plan):
        return otherwise
    try:
        memory = _memory(plan)
        lines = advise(suggestions(memory, _smaller(card, memory)))
    except Exception:  # the reason why the run ends must not be hidden
        return otherwise
    return "\n" + "\n".join([*lines, "Close other programs that use the GPU."])


def card_of_run(plan: RunPlan) -> Card | None:
    """Return the card that the run uses, None on a CPU."""
    return this_card(plan.model.device) if plan.model.device.type == "cuda" else None


def _is_small(plan: RunPlan) -> bool:
    return sum(outputs * inputs for outputs, inputs in plan.model.layout.shapes.values()) < SMALL


def _memory(plan: RunPlan) -> Memory:
    return Memory(work_of_preset(plan.preset, _blueprint(plan), plan.data))


def _blueprint(plan: RunPlan) -> Blueprint:
    files = plan.model.files
    return blueprint_of_folder(files.family, files.components, files.name)


def _smaller(card: Card, memory: Memory) -> Card:
    """The card, or as much of it as there seems to be: the run did not fit, whatever was counted."""
    room = min(usable(card.memory), 0.9 * memory.peak.total / GIB)
    return replace(card, memory=(room + CONTEXT) / (1 - LOST))

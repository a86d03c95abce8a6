"""Writes a plan for a person: three lines for the start of a run, or tables."""

from __future__ import annotations

from collections.abc import Sequence

from danceopd_ext.errors import counted
from danceopd_ext.planning.advice import CONTEXT, LOST, Suggestion, fits, usable
from danceopd_ext.planning.cards import Card
from danceopd_ext.planning.disk import Disk
from danceopd_ext.planning.hours import Hours
from danceopd_ext.planning.phases import GIB, PARTS, Memory, Phase

MIB = 2**20


def three_lines(memory: Memory, card: Card | None, hours: Hours | None, disk: Disk) -> list[str]:
    """Return memory, time and disk in a line each."""
    peak = memory.peak
    of = f" of {card.memory:g} GB, about {usable(card.memory):.1f} of them usable" if card else ""
    main = max(phase.main for phase in memory.phases())
    lines = [f"needs    {gib(peak.total)} GiB of GPU memory at the peak ({peak.name}){of}; main memory {gib(main)} GiB"]
    if hours:
        lines.append(
            f"takes    {duration(hours)} for {counted(hours.steps, 'step')} of {seconds(hours.step)} ({hours.how})"
        )
    return [*lines, f"writes   {_disk(disk)}"]


def tables(memory: Memory, card: Card, hours: Hours, disk: Disk, advice: Sequence[Suggestion]) -> list[str]:
    """Return the whole plan."""
    work = memory.work
    lines = [
        f"{work.blueprint.name} ({work.blueprint.family.title}), {memory.counts.parameters / 1e9:.1f} billion "
        f"parameters, {', '.join(f'{w} x {h}' for w, h in work.sizes)}",
        *(f"note: {note}" for note in work.assumed),
        "",
        *_phases(memory.phases()),
        "",
        *three_lines(memory, card, hours, disk),
        f"work     {hours.forwards.rollout:.1f} forwards of rollouts, {hours.forwards.teacher:.1f} of teachers and "
        f"{hours.forwards.gradient:.1f} with a backward in a step; {hours.tflop:.1f} TFLOP a forward",
    ]
    if hours.waiting:
        lines.append(f"         {seconds(hours.waiting)} of a step wait for swapped blocks")
    if disk.download:
        lines.append(f"download {disk.download / 1e9:.1f} GB, unless the model is here already")
    return [*lines, "", *_verdict(memory, card, advice)]


def _phases(phases: Sequence[Phase]) -> list[str]:
    """A table in GiB: a row for each phase, a column for each part that some phase has."""
    parts = [part for part in PARTS if any(phase.parts.get(part) for phase in phases)]
    rows = [["GiB of GPU memory", *parts, "all", "main memory"]]
    for phase in phases:
        cells = [gib(phase.parts[part]) if phase.parts.get(part) else "" for part in parts]
        rows.append([phase.name, *cells, gib(phase.total), gib(phase.main)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    first, *others = widths
    return [
        "  ".join([row[0].ljust(first), *(cell.rjust(width) for cell, width in zip(row[1:], others, strict=True))])
        for row in rows
    ]


def _verdict(memory: Memory, card: Card, advice: Sequence[Suggestion]) -> list[str]:
    """Say whether it fits and, if not, what to paste."""
    room = f"{usable(card.memory):.1f} GiB (its {card.memory:g}, less {CONTEXT} for CUDA's context and {LOST:.0%})"
    lines = []
    if fits(memory, card):
        lines.append(f"It fits into {card.name}: the tensors can have {room}.")
    else:
        more = memory.peak.total / GIB - usable(card.memory)
        lines.append(f"It does not fit into {card.name}: the tensors can have {room}, {more:.1f} GiB too few.")
        lines += advise(advice)
    lines += _not_as_usual(memory, card)
    return lines


def advise(advice: Sequence[Suggestion]) -> list[str]:
    """Return the suggestions, the cheapest first, as lines to paste."""
    if not advice:
        return ["No change of the preset makes it fit: use a smaller model or a larger card."]
    lines = []
    for number, one in enumerate(advice):
        word = "To make it fit, set" if number == 0 else "Or"
        cost = f"; {'; '.join(one.costs)}" if one.costs else ""
        lines.append(f"{word} ({gib(one.memory.peak.total)} GiB, {duration(one.hours)}{cost}):")
        lines += [f"    {line}" for line in one.lines]
    return lines


def _not_as_usual(memory: Memory, card: Card) -> list[str]:
    """What the trainer does by itself if a phase that is not needed for learning does not fit."""
    room, found = usable(card.memory) * GIB, []
    for phase in memory.phases():
        if phase.name == "encode" and phase.total > room:
            found.append("The text encoders do not fit: they are streamed through the GPU, which takes minutes longer.")
        if phase.name == "preview" and phase.total > room and memory.peak.total <= room:
            found.append("Previews do not fit and would be turned off: use smaller pictures (--w and --h).")
    return found


def _disk(disk: Disk) -> str:
    loras = f"{counted(disk.loras, 'LoRA')} of {disk.lora / MIB:,.0f} MiB"
    states = f", {counted(disk.states, 'state')} of {disk.state / MIB:,.0f} MiB" if disk.states else ""
    caches = f", caches of {disk.caches / MIB:,.0f} MiB" if disk.caches else ""
    return f"{loras}{states}{caches}: {gib(disk.written)} GiB at most"


def gib(size: float) -> str:
    """Return bytes in GiB, for a table."""
    return f"{size / GIB:.1f}" if size >= 0.95 * GIB else f"{size / GIB:.2f}"


def seconds(value: float) -> str:
    """Return a time in seconds, for a person."""
    return f"{value:.0f} s" if value >= 10 else f"{value:.2g} s"


def duration(hours: Hours) -> str:
    """Return the time of the run, for a person."""
    return f"about {hours.total:.0f} hours" if hours.total >= 2 else f"about {max(hours.total * 60, 1):.0f} minutes"

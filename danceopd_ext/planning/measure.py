"""Measures how fast this machine's card is at this model: its real blocks with random weights, for some seconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch

from danceopd_ext.engine.fields import AdapterField
from danceopd_ext.models.conditions import TextConditions
from danceopd_ext.planning.cards import Card
from danceopd_ext.planning.hours import pass_seconds
from danceopd_ext.planning.paper import STUDENT, Paper
from danceopd_ext.planning.phases import Memory

#: seconds that a measurement may take, and forwards that are enough
MOST_SECONDS, MOST_FORWARDS = 20.0, 20


def measured_pace(memory: Memory, card: Card, device: str = "cuda") -> tuple[float, str]:
    """Return measured over estimated time of a forward of one sample, and words for it.

    Only a few blocks of each kind are built, so it fits where the model does not.
    """
    work, counts = memory.work, memory.counts
    transformer = torch.nn.Module.to(counts.blueprint.transformer(), work.dtype)
    paper = Paper(transformer, work.student, {})
    expected = _expected(memory, paper, card)
    paper.transformer.to_empty(device=device)
    with torch.no_grad():
        for tensor in (*paper.transformer.parameters(), *paper.transformer.buffers()):
            if tensor.is_floating_point():
                tensor.normal_(0, 0.02)
    autocast: Callable[[], AbstractContextManager] = (
        nullcontext if work.dtype == torch.float32 else lambda: torch.autocast(device, work.dtype)
    )
    field = AdapterField(counts.blueprint.family, paper.adapters, STUDENT, autocast)
    inputs = counts.inputs(work)
    item = {name: torch.randn(shape, device=device, dtype=work.dtype) for name, shape in inputs.condition.items()}
    condition = TextConditions([item], item)
    latents, sigma = torch.randn(1, *inputs.latents, device=device), torch.full((1,), 0.5, device=device)
    seconds = _time(lambda: field(latents, sigma, condition), device)
    return seconds / expected, f"measured on this {card.name}"


def _expected(memory: Memory, paper: Paper, card: Card) -> float:
    """The estimate for the blocks that are kept."""
    need = memory.counts.need("rollout", memory.work, 1)
    share = sum(len(kind.kept) for kind in paper.kinds) / sum(len(kind.places) for kind in paper.kinds)
    return pass_seconds(need, card, 0, 0)[0] * share


def _nothing() -> None: ...


@torch.no_grad()
def _time(forward: Callable[[], object], device: str) -> float:
    """Return the seconds of a forward: the fastest, after one to warm up."""
    wait = torch.cuda.synchronize if device == "cuda" else _nothing
    forward()
    wait()
    best, begun = float("inf"), time.perf_counter()
    for _ in range(MOST_FORWARDS):
        start = time.perf_counter()
        forward()
        wait()
        best = min(best, time.perf_counter() - start)
        if time.perf_counter() - begun > MOST_SECONDS:
            break
    return best

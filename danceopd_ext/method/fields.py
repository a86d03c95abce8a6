"""Defines velocity fields and the operators that make new fields of them (paper, section "operator fields").

A field maps latents z at noise level sigma under a condition to the velocity dz/dsigma. Shape suffixes: B samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch


class Condition(Protocol):
    """What the velocities of a batch depend on besides latents and sigma; opaque to the method."""

    def __len__(self) -> int: ...

    def select(self, indices: Sequence[int]) -> Condition:
        """Return the condition of these samples, in this order."""
        ...

    def unconditional(self) -> Condition:
        """Return the same condition with the text of the empty prompt."""
        ...


#: (latents [B, ...] float32, sigma [B] in 0..1, condition of B samples) -> velocity [B, ...]
Field = Callable[[torch.Tensor, torch.Tensor, Condition], torch.Tensor]


def guided(field: Field, guidance_scale: float) -> Field:
    """Return classifier-free guidance as a field: v_empty + guidance_scale * (v_text - v_empty).

    `guidance_scale` is the paper's alpha: 1 is the plain field, 0 the unconditional one.
    """
    if guidance_scale == 1.0:
        return field

    def guided_field(latents: torch.Tensor, sigma: torch.Tensor, condition: Condition) -> torch.Tensor:
        with_text = field(latents, sigma, condition)
        without = field(latents, sigma, condition.unconditional())
        return without + guidance_scale * (with_text - without)

    guided_field.forwards = lambda condition: 2 * forwards(field, condition)
    return guided_field


def mixture(fields: Sequence[Field], weights: Sequence[float]) -> Field:
    """Return the weighted mean of fields: soft routing, for ablations only (the method never averages teachers)."""
    total = float(sum(weights))

    def mixed_field(latents: torch.Tensor, sigma: torch.Tensor, condition: Condition) -> torch.Tensor:
        parts = (w / total * f(latents, sigma, condition) for f, w in zip(fields, weights, strict=True))
        return torch.stack(list(parts)).sum(dim=0)

    mixed_field.forwards = lambda condition: sum(forwards(field, condition) for field in fields)
    return mixed_field


def by_route(fields: Mapping[str, Field], routes: Callable[[Condition], Sequence[str]]) -> Field:
    """Return a field that routes each sample to the field of its own route, and to no other.

    `routes(condition)` names the route of each sample. Each field is called once, for all of its samples together.
    """

    def rows_of(condition: Condition) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for row, route in enumerate(routes(condition)):
            found.setdefault(route, []).append(row)
        return found

    def routed_field(latents: torch.Tensor, sigma: torch.Tensor, condition: Condition) -> torch.Tensor:
        answers = torch.empty_like(latents)
        for route, rows in rows_of(condition).items():
            answers[rows] = fields[route](latents[rows], sigma[rows], condition.select(rows)).to(answers.dtype)
        return answers

    routed_field.forwards = lambda condition: sum(
        forwards(fields[route], condition.select(rows)) for route, rows in rows_of(condition).items()
    )
    return routed_field


def forwards(field: Field, condition: Condition) -> int:
    """Return how many samples pass through the transformer if `field` gets `condition`: guidance needs two each."""
    own = getattr(field, "forwards", None)
    return own(condition) if own else len(condition)


class CountedField:
    """A field that counts its cost. `samples`: samples through the transformer so far (see `forwards`)."""

    def __init__(self, field: Field):
        self.field = field
        self.samples = 0

    def __call__(self, latents: torch.Tensor, sigma: torch.Tensor, condition: Condition) -> torch.Tensor:
        self.samples += forwards(self.field, condition)
        return self.field(latents, sigma, condition)

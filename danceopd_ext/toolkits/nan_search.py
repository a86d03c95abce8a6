"""Finds the part that broke when a loss is NaN: runs the step again and watches every field.

A learning rate that is too high is one cause among many. The same step draws the same random numbers, so the first
output that is not finite shows where the numbers broke; asking the parts one by one then shows which of them broke.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from danceopd_ext.config import Teacher
from danceopd_ext.errors import shorten
from danceopd_ext.finite import is_finite
from danceopd_ext.method import Field
from danceopd_ext.method.fields import forwards
from danceopd_ext.toolkits.hosted.active_adapter import STUDENT

#: the remedy if the student itself broke
RATE = 'Use a lower learning_rate, mixed_precision = "bf16" instead of "fp16", or a lower max_grad_norm'

#: latents and velocities are about 1 in size; beyond this value a rollout is diverging
LARGEST = 1e6
#: a LoRA's weights are below 10; beyond this value training went wrong some steps ago
WILD = 1e4


class Found(Exception):
    """The first output that is not finite. who: a teacher's name, or STUDENT. rows: the samples, out of `count`.

    exploded: the field's input latents were already too large, although no earlier output was.
    """

    def __init__(
        self,
        who: str,
        rows: list[int],
        asked: tuple[torch.Tensor, torch.Tensor, Any],
        exploded: bool,
        is_finite: bool = False,
    ):
        super().__init__(who)
        self.who, self.rows, self.exploded = who, rows, exploded
        self.what = f"numbers above {LARGEST:g}" if is_finite else "NaN or infinite numbers"
        self.latents, self.sigma, self.condition = asked

    @property
    def is_of_all(self) -> bool:
        """Whether there are several samples and all of them broke: the prompts are then not the cause."""
        return len(self.rows) == len(self.latents) > 1

    @property
    def one(self) -> tuple[torch.Tensor, torch.Tensor, Any]:
        """The field's inputs for the first of these samples."""
        row = self.rows[0]
        return self.latents[row : row + 1], self.sigma[row : row + 1], self.condition.select([row])


class Watched:
    """A field that raises Found as soon as its latents or its output are not finite, or huge."""

    def __init__(self, who: str, field: Field):
        self.who, self.field = who, field

    def forwards(self, condition: Any) -> int:
        return forwards(self.field, condition)

    def __call__(self, latents: torch.Tensor, sigma: torch.Tensor, condition: Any) -> torch.Tensor:
        asked = latents.detach(), sigma, condition
        if rows := unusual_rows(latents):
            raise Found(self.who, rows, asked, exploded=True)
        answer = self.field(latents, sigma, condition)
        if rows := unusual_rows(answer):
            raise Found(self.who, rows, asked, exploded=False, is_finite=is_finite(answer))
        return answer


def unusual_rows(tensor: torch.Tensor) -> list[int]:
    """The samples of a batch whose numbers are not finite, or so large that their squares soon are not."""
    return [] if _is_usual(tensor) else [row for row, sample in enumerate(tensor) if not _is_usual(sample)]


def do_again(step: Callable[[Callable[[str, Field], Field]], object]) -> Found | None:
    """Run a step again, with every field wrapped by `watch(who, field)`; return what broke first, or None."""
    try:
        step(Watched)
    except Found as found:
        return found
    return None


@dataclass(frozen=True)
class Parties:
    """The fields to ask again, without guidance, and what a message calls them.

    unguided: teacher -> its field. scales: the guidance scale of each teacher and of the STUDENT. files: teacher -> its
    files, such as "its LoRA a.safetensors"; "" for the base. broken_weight: returns the name of a weight of the base
    that is not finite, or None.
    """

    base: Field
    unguided: Mapping[str, Field]
    scales: Mapping[str, float]
    files: Mapping[str, str]
    precision: str
    broken_weight: Callable[[], str | None]
    student: Iterable[torch.Tensor]
    """The student's weights."""

    @property
    def narrow(self) -> str:
        """The first remedy in float16, whose largest number is 65,504."""
        narrow = 'fp16 may be too narrow for this model: set mixed_precision = "bf16". '
        return narrow if self.precision == "fp16" else ""


def files_of(teachers: Mapping[str, Teacher]) -> dict[str, str]:
    """Return the files of each teacher, in words, for Parties."""
    files = {}
    for name, teacher in teachers.items():
        if teacher.loras:
            strengths = ", ".join(f"{strength:g}" for strength in teacher.strengths)
            files[name] = f"its LoRA {', '.join(teacher.loras)} (strength {strengths})"
        elif teacher.checkpoint:
            files[name] = f"its checkpoint {teacher.checkpoint}"
    return files


def broken_student(weight: str) -> str:
    """Return the message for a student whose weight of this name is not finite."""
    return (
        f"the student's own weights are NaN or infinite since the step before ({weight}). {RATE}, and start again or "
        "go on from an earlier state"
    )


def not_found(teachers: str) -> str:
    """Return the message if no part is found: on another machine, or with other noise, the step may succeed."""
    return f"it is a number when the step is repeated, so no part can be named. {_remedies(teachers)}"


def not_asked(error: Exception, teachers: str) -> str:
    """Return the message if asking the parts again failed."""
    return f"the search for the part that broke failed ({shorten(str(error))}). {_remedies(teachers)}"


def _remedies(teachers: str) -> str:
    """Return the usual remedies. `teachers`: the names of the teachers in the step."""
    return (
        f"{RATE}; if it happens in the first steps, check teacher {teachers}: its LoRA or its guidance_scale may be "
        "too strong"
    )


@torch.no_grad()
def explain(found: Found, parties: Parties, prompt: str = "") -> str:
    """Return sentences that name the part that broke and the remedy. `prompt`: of the first sample that broke."""
    where = f' for the prompt "{shorten(prompt)}"' if prompt else ""
    if found.exploded:
        if not _is_usual(parties.base(torch.randn_like(found.latents[:1]), *found.one[1:])):
            return _base(parties, where)
        return f"the student's rollout diverges{where}; the base alone does not. {RATE}"
    if not _is_usual(parties.base(*found.one)):
        return _base(parties, where)
    if found.who == STUDENT:
        return f"the student gives {found.what}{where}, and the base alone does not. {RATE}"
    return _teacher(found, parties, where)


def _is_usual(tensor: torch.Tensor) -> bool:
    """Whether latents or a velocity are finite and of a usual size."""
    return is_finite(tensor) and float(tensor.detach().abs().max()) < LARGEST


def _base(parties: Parties, where: str) -> str:
    if weight := parties.broken_weight():
        return (
            f"the base model's weight {weight} holds NaN or infinite numbers, with or without any LoRA. Download the "
            "model again; if it happens again, check the memory of this machine"
        )
    largest = max((float(weight.detach().abs().max()) for weight in parties.student if weight.numel()), default=0.0)
    if largest > WILD:  # the toolkits switch the student off by multiplying it with 0, and infinity times 0 is NaN
        return f"the student's weights have grown up to {largest:.0e}. {RATE}, and go on from an earlier state"
    return (
        f"the base model gives NaN or infinite numbers{where}, without any LoRA, and its weights are finite. "
        f'{parties.narrow}Try mixed_precision = "no" and attn_mode = "sdpa" to see whether either is the cause'
    )


def _teacher(found: Found, parties: Parties, where: str) -> str:
    name, scale = found.who, parties.scales.get(found.who, 1.0)
    said = f"teacher {name} gives {found.what}{where}, and the base does not"
    file = parties.files.get(name, "")
    if scale != 1 and _is_usual(parties.unguided[name](*found.one)):
        latents, sigma, condition = found.one
        if _is_usual(parties.unguided[name](latents, sigma, condition.unconditional())):
            return f"{said}: its guidance_scale = {scale:g} is too strong. Use a lower one"
        return f"{said}: it breaks for the empty prompt, which guidance needs. {_other(parties, file)}"
    return f"{said}. {_other(parties, file)}"


def _other(parties: Parties, file: str) -> str:
    return (
        f"{parties.narrow}Check {file or 'what makes it different from the base'}: use less strength, or another file"
    )

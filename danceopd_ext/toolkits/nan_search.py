"""Who is to blame for a loss that is not a number: the step is done again, with every field watched.

A learning rate that is too high is one cause among many. The same step draws the same random numbers, so that the
first answer that is not finite shows where the numbers broke; asking the parts one by one there says which of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from danceopd_ext.config import Teacher
from danceopd_ext.errors import few_letters
from danceopd_ext.finite import is_finite
from danceopd_ext.method import Field
from danceopd_ext.method.fields import forwards
from danceopd_ext.toolkits.hosted.switch import STUDENT

#: what is said of the learning rate, where the student itself broke
RATE = 'Use a lower learning_rate, mixed_precision = "bf16" instead of "fp16", or a lower max_grad_norm'

#: latents and velocities are of the size of 1; beyond this a rollout is on its way to infinity
LARGEST = 1e6
#: a LoRA's weights are below 10; with such ones training has gone wrong steps before
WILD = 1e4


class Found(Exception):
    """The first answer that is not finite. who: a teacher's name, or STUDENT. rows: the samples, of `count`.

    exploded: the latents that the field was asked about were too large already, though no answer before was.
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
        """Whether several samples broke, and all of them: it is not a matter of their prompts then."""
        return len(self.rows) == len(self.latents) > 1

    @property
    def one(self) -> tuple[torch.Tensor, torch.Tensor, Any]:
        """What the field was asked about the first of these samples."""
        row = self.rows[0]
        return self.latents[row : row + 1], self.sigma[row : row + 1], self.condition.select([row])


class Watched:
    """A field that raises Found as soon as its latents or its answer are not finite, or huge."""

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
    """The samples of a batch with numbers that are not finite, or so large that their squares soon are not."""
    return [] if _is_usual(tensor) else [row for row, sample in enumerate(tensor) if not _is_usual(sample)]


def do_again(step: Callable[[Callable[[str, Field], Field]], object]) -> Found | None:
    """Do a step again, with every field in it given to `watch(who, field)`; what was found first, or None."""
    try:
        step(Watched)
    except Found as found:
        return found
    return None


@dataclass(frozen=True)
class Parties:
    """Whom to ask again, without guidance, and how a message calls them.

    voices: teacher -> its field. scales: the guidance of each teacher, and of the STUDENT. files: what a teacher has of
    its own, such as "its LoRA a.safetensors"; "" for the base. broken_weight: the name of a weight of the base that is
    not finite, or None.
    """

    base: Field
    voices: Mapping[str, Field]
    scales: Mapping[str, float]
    files: Mapping[str, str]
    precision: str
    broken_weight: Callable[[], str | None]
    student: Iterable[torch.Tensor]
    """The student's weights."""

    @property
    def narrow(self) -> str:
        """The remedy that comes first in float16, whose largest number is 65,504."""
        narrow = 'fp16 may be too narrow for this model: set mixed_precision = "bf16". '
        return narrow if self.precision == "fp16" else ""


def files_of(teachers: Mapping[str, Teacher]) -> dict[str, str]:
    """What each teacher has of its own, for Parties."""
    files = {}
    for name, teacher in teachers.items():
        if teacher.loras:
            strengths = ", ".join(f"{strength:g}" for strength in teacher.strengths)
            files[name] = f"its LoRA {', '.join(teacher.loras)} (strength {strengths})"
        elif teacher.checkpoint:
            files[name] = f"its checkpoint {teacher.checkpoint}"
    return files


def broken_student(weight: str) -> str:
    """What is said of a student with a weight of this name that is not finite."""
    return (
        f"the student's own weights are NaN or infinite since the step before ({weight}). {RATE}, and start again or "
        "go on from an earlier state"
    )


def not_found(teachers: str) -> str:
    """What is said when no part is found: on another machine, or with other noise, the step may be good."""
    return f"done again, it is: no part is found. {_remedies(teachers)}"


def not_asked(error: Exception, teachers: str) -> str:
    """What is said when asking the parts again failed."""
    return f"which part it is could not be found out ({few_letters(str(error))}). {_remedies(teachers)}"


def _remedies(teachers: str) -> str:
    """The usual remedies. `teachers`: the names of those in the step."""
    return (
        f"{RATE}; if it happens in the first steps, check teacher {teachers}: its LoRA or its guidance_scale may be "
        "too strong"
    )


@torch.no_grad()
def explain(found: Found, parties: Parties, prompt: str = "") -> str:
    """The part that broke, and what to do, in sentences. `prompt`: of the first sample that broke."""
    where = f' for the prompt "{few_letters(prompt)}"' if prompt else ""
    if found.exploded:
        if not _is_usual(parties.base(torch.randn_like(found.latents[:1]), *found.one[1:])):
            return _base(parties, where)
        return f"the student's rollout grows beyond all numbers{where}, which the base alone does not. {RATE}"
    if not _is_usual(parties.base(*found.one)):
        return _base(parties, where)
    if found.who == STUDENT:
        return f"the student gives {found.what}{where}, and the base without it does not. {RATE}"
    return _teacher(found, parties, where)


def _is_usual(tensor: torch.Tensor) -> bool:
    """Whether latents or a velocity are finite and of a size that a model can be asked about."""
    return is_finite(tensor) and float(tensor.detach().abs().max()) < LARGEST


def _base(parties: Parties, where: str) -> str:
    if weight := parties.broken_weight():
        return (
            f"the base model's weight {weight} holds NaN or infinite numbers, with or without any LoRA. Download the "
            "model again; if it happens again, check the memory of this machine"
        )
    largest = max((float(weight.detach().abs().max()) for weight in parties.student if weight.numel()), default=0.0)
    if largest > WILD:  # the toolkits silence the student by multiplying it with 0, and infinity times 0 is NaN
        return f"the student's weights have grown up to {largest:.0e}. {RATE}, and go on from an earlier state"
    return (
        f"the base model gives NaN or infinite numbers{where}, without any LoRA, and its weights are finite. "
        f'{parties.narrow}Try mixed_precision = "no" and attn_mode = "sdpa", to see whether either is to blame'
    )


def _teacher(found: Found, parties: Parties, where: str) -> str:
    name, scale = found.who, parties.scales.get(found.who, 1.0)
    said = f"teacher {name} gives {found.what}{where}, and the base does not"
    file = parties.files.get(name, "")
    if scale != 1 and _is_usual(parties.voices[name](*found.one)):
        latents, sigma, condition = found.one
        if _is_usual(parties.voices[name](latents, sigma, condition.unconditional())):
            return f"{said}: its guidance_scale = {scale:g} is too strong. Use a lower one"
        return f"{said}: it breaks for the empty prompt, which guidance asks for. {_other(parties, file)}"
    return f"{said}. {_other(parties, file)}"


def _other(parties: Parties, file: str) -> str:
    return f"{parties.narrow}Check {file or 'what makes it another than the base'}: use less strength, or another file"

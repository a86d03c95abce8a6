"""What a preset asks of a model: sizes, samples, adapters, and how many forwards a step has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from danceopd_ext.config import Preset
from danceopd_ext.config.method_options import method_options
from danceopd_ext.data.resolutions import Size
from danceopd_ext.engine.precision import torch_dtype
from danceopd_ext.method import METHODS, Batch, Step, Student, guided
from danceopd_ext.planning.blueprint import Blueprint

#: tokens of a prompt whose text is not known, for models whose pipeline does not pad prompts: some 90 words
USUAL_TOKENS = 128
#: rank of a teacher's LoRA whose file is not there yet
USUAL_RANK = 32
#: texts of a route whose files are not there yet
USUAL_TEXTS = 300
#: toy steps that are run to find the mean number of forwards, and samples after which no further step is run
TOY_STEPS, TOY_SAMPLES = 64, 4000


@dataclass(frozen=True)
class PlannedTeacher:
    """A teacher. `layers`: layer -> rank of its LoRA; none for the base and for a whole checkpoint, which is streamed.

    `bytes`: of its LoRA on the device.
    """

    layers: Mapping[str, int]
    bytes: int = 0
    guidance_scale: float = 1.0
    checkpoint: bool = False


@dataclass(frozen=True)
class Work:
    """A run to be planned.

    `sizes`: of pictures, in pixels. `sources`: the sizes of the source images of the edit with the most of them.
    `student`: layer -> rank. `texts`: how many prompts are encoded, with `tokens` each at most. `preview`: the size of
    the largest preview, None if none are drawn. `assumed`: what was not there, for a person to read.
    """

    preset: Preset
    blueprint: Blueprint
    sizes: Sequence[Size]
    student: Mapping[str, int]
    teachers: Mapping[str, PlannedTeacher]
    sources: Sequence[Size] = ()
    texts: int = 0
    tokens: int = USUAL_TOKENS
    preview: Size | None = None
    assumed: Sequence[str] = ()

    @property
    def dtype(self) -> torch.dtype:
        return torch_dtype(self.preset.training.mixed_precision)

    @property
    def largest(self) -> Size:
        return max(self.sizes, key=lambda size: size[0] * size[1])

    @property
    def samples(self) -> int:
        """The samples of a step on one process."""
        training = self.preset.training
        return training.train_batch_size * training.gradient_accumulation_steps

    @property
    def together(self) -> int:
        """The samples that roll out together."""
        return min(self.preset.danceopd.rollout_batch_size or self.samples, self.samples)

    @property
    def matched(self) -> int:
        """The states that the student matches together, with gradients."""
        return self.preset.danceopd.match_batch_size or self.preset.training.train_batch_size

    @property
    def trains(self) -> bool:
        return not self.preset.danceopd.merges

    def at(self, resolution: int) -> Work:
        """Return the same run with pictures of at most this many pixels squared."""
        sizes = tuple(_shrunk(size, resolution, 64) for size in self.sizes)
        preset = replace(self.preset, dataset=replace(self.preset.dataset, resolution=resolution))
        return replace(self, preset=preset, sizes=sizes)


def _shrunk(size: Size, resolution: int, multiple: int) -> Size:
    factor = min(1.0, resolution / (size[0] * size[1]) ** 0.5)
    width, height = (max(multiple, round(side * factor / multiple) * multiple) for side in size)
    return width, height


@dataclass(frozen=True)
class Forwards:
    """Samples through the transformer in a step, on average; those of the gradient pass have a backward as well."""

    rollout: float
    teacher: float
    gradient: float


def forwards_of(work: Work) -> Forwards:
    """Run the method itself on toy latents and count."""
    preset, options = work.preset, work.preset.danceopd
    toy = method_options(options)
    teachers = {name: guided(_toy_field, one.guidance_scale) for name, one in work.teachers.items()}
    student = Student(field=guided(_toy_student(), options.student_guidance_scale), backward=lambda loss: None)
    method = METHODS[options.method]
    clean = [torch.zeros(1, 1, 1)] * work.samples if method.clean_latents != "unused" else []

    def data(route: str, step: int) -> list[Batch]:
        return [
            Batch(
                condition=ToyCondition(work.samples),
                indices=list(range(work.samples)),
                total=work.samples,
                latent_shape=(1, 1, 1),
                sigmas=torch.linspace(1, 0, options.rollout_steps + 1),
                match_batch_size=work.matched,
                clean_latents=clean,
            )
        ]

    weights = {name: options.routes.get(name, 1.0) for name in teachers}
    reports = []
    while len(reports) < TOY_STEPS and sum(one.forwards for one in reports) < TOY_SAMPLES:
        step = Step(options=toy, seed=preset.training.seed, number=len(reports))
        reports.append(method.update(step, weights, data, teachers, student))
    kinds = ("rollout_forwards", "teacher_forwards", "student_forwards")
    return Forwards(*(sum(getattr(one, kind) for one in reports) / len(reports) for kind in kinds))


class ToyCondition:
    """A condition of so many samples, and of nothing else."""

    def __init__(self, count: int):
        self.count = count

    def __len__(self) -> int:
        return self.count

    def select(self, indices: Sequence[int]) -> ToyCondition:
        return ToyCondition(len(indices))

    def unconditional(self) -> ToyCondition:
        return self


def _toy_field(latents: torch.Tensor, sigma: torch.Tensor, condition: Any) -> torch.Tensor:
    return torch.zeros_like(latents)


def _toy_student() -> Any:
    weight = torch.zeros((), requires_grad=True)
    return lambda latents, sigma, condition: latents * weight

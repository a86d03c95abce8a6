"""Computes the same update in two ways: the package's own, and the plain one."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from danceopd_ext.data.plan import Plan, Prompt
from danceopd_ext.engine.batches import StepData
from danceopd_ext.engine.conditions import Encodings
from danceopd_ext.engine.fields import AdapterField, Autocast
from danceopd_ext.engine.model import Model
from danceopd_ext.engine.prompts import EMPTY, encode_missing, open_prompt_cache
from danceopd_ext.lora.adapters import Adapters
from danceopd_ext.lora.algebra import compress, merge
from danceopd_ext.lora.weights import Lora
from danceopd_ext.method import (
    CountedField,
    Field,
    MethodOptions,
    Step,
    Student,
    draw_query_indices,
    draw_route,
    generator,
    sample_noise,
    update,
)
from danceopd_ext.models.conditions import TextConditions

STUDENT = "student"
#: what `update` returns: samples through the transformer in each stage, as the update's report names them
COUNTS = ("rollout_forwards", "teacher_forwards", "student_forwards")


@dataclass(frozen=True)
class Task:
    """What both ways train: the same model, data, teachers and start, for `steps` updates."""

    model: Model
    data: Plan
    steps: int
    teachers: Mapping[str, Lora]
    rank: int
    layers: Sequence[str]
    autocast: Autocast

    def add_student(self, adapters: Adapters) -> None:
        """Put the student on the base: the mean of its teachers, so that its rollouts differ from the base's."""
        start = compress(merge(list(self.teachers.values()), "average"), self.rank)
        layers, rank = list(self.layers), self.rank
        adapters.add_student(STUDENT, rank, float(rank), layers, generator=generator(self.data.seed), init=start)


class Ours:
    """The package's way: prompts encoded once, one transformer with adapters, the method's own update."""

    def __init__(self, task: Task, folder: str):
        model = task.model
        cache = open_prompt_cache(model, folder, model.source_images())
        texts = [Prompt(EMPTY), *task.data.all_prompts(task.steps)]
        encode_missing(model, cache, texts, lambda line: None, "Free some disk space.")
        steps = MethodOptions().rollout_steps
        self.data, self.device = StepData(task.data, model, Encodings(cache), rollout_steps=steps), model.device
        transformer = model.load_transformer().to(model.device)
        self.adapters, self.held = Adapters(transformer), [transformer]
        for name, lora in task.teachers.items():
            self.adapters.add(name, lora)
        task.add_student(self.adapters)
        names = (*task.teachers, STUDENT)
        fields = {name: AdapterField(model.family, self.adapters, name, task.autocast) for name in names}
        self.student, self.teachers = fields.pop(STUDENT), fields

    def update(self, step: int) -> tuple[int, ...]:
        """Accumulate the gradient of a step; return the forwards that COUNTS names."""
        now = Step(options=MethodOptions(), seed=self.data.plan.seed, number=step, device=self.device)
        student = Student(field=self.student, backward=torch.Tensor.backward)
        report = update(now, self.data.plan.weights, self.data, self.teachers, student)
        return tuple(getattr(report, key) for key in COUNTS)


class Plain:
    """The plain way: one sample at a time, whole rollouts, a merged transformer per teacher, loaded text encoders."""

    def __init__(self, task: Task, folder: str):
        model, self.plan, self.autocast = task.model, task.data, task.autocast
        self.family, self.device = model.family, model.device
        self.encoders = model.load_text_encoders()
        (size,) = {item.size for item in task.data.items()}
        self.latent_shape = model.latent_shape(*size)
        self.sigmas = model.sigmas(*size, MethodOptions().rollout_steps).tolist()
        base = model.load_transformer().to(model.device)
        copies = {name: merged(base, lora) for name, lora in task.teachers.items()}
        self.adapters = Adapters(base)
        task.add_student(self.adapters)
        self.adapters.activate(STUDENT)
        self.student, self.teachers = self.field(base), {name: self.field(copied) for name, copied in copies.items()}
        parts = [base, *copies.values(), *self.encoders.components.values()]
        self.held = [part for part in parts if isinstance(part, torch.nn.Module)]

    def field(self, transformer: torch.nn.Module) -> Field:
        def velocity(latents: torch.Tensor, sigma: torch.Tensor, condition: TextConditions) -> torch.Tensor:
            with self.autocast():
                return self.family.velocity(transformer, latents, sigma, condition).float()

        return velocity

    @torch.no_grad()
    def encode(self, text: str) -> TextConditions:
        return TextConditions(self.family.encode_prompts(self.encoders, [text]), {}).to(self.device)

    @torch.no_grad()
    def roll_out(self, field: Field, noise: torch.Tensor, condition: TextConditions) -> list[torch.Tensor]:
        """Return every state of the student's trajectory, from noise to the clean end."""
        states = [noise]
        for sigma, after in zip(self.sigmas[:-1], self.sigmas[1:], strict=True):
            velocity = field(states[-1], torch.full((1,), sigma, device=self.device), condition)
            states.append(states[-1] + (after - sigma) * velocity)
        return states

    def update(self, step: int) -> tuple[int, ...]:
        """Accumulate the gradient of a step; return the forwards that COUNTS names."""
        seed, steps, texts = self.plan.seed, len(self.sigmas) - 1, self.plan.step(step).texts
        route = draw_route(self.plan.weights, seed, step)
        rolling, teacher, student = map(CountedField, (self.student, self.teachers[route], self.student))
        for i, text in enumerate(texts):
            condition = self.encode(text)
            noise = sample_noise(seed, step, [i], self.latent_shape).to(self.device)
            states = self.roll_out(rolling, noise, condition)
            own = {"seed": seed, "step": step, "indices": [i], "total": len(texts)}
            query = int(draw_query_indices("low_noise", 1, steps, **own))
            sigma = torch.full((1,), self.sigmas[query], device=self.device)
            with torch.no_grad():
                target = teacher(states[query], sigma, condition)
            loss = torch.nn.functional.mse_loss(student(states[query], sigma, condition), target) / len(texts)
            loss.backward()
        return rolling.samples, teacher.samples, student.samples


def merged(base: torch.nn.Module, lora: Lora) -> torch.nn.Module:
    """Return a merged copy of the base for the teacher: it computes no adapters."""
    teacher = copy.deepcopy(base)
    for layer, change in lora.modules.items():
        weight = teacher.get_submodule(layer).weight
        weight.data = (weight.data.float() + change.delta().to(weight.device)).to(weight.dtype)
    return teacher


WAYS: dict[str, type[Plain] | type[Ours]] = {"plain": Plain, "ours": Ours}

"""The two ways of making the same update: the package's own, and the plain one."""

from __future__ import annotations

import copy

import torch
from accelerate import Accelerator

from danceopd_ext.lora.adapters import Adapters
from danceopd_ext.lora.weights import Lora
from danceopd_ext.method import CountedField, Field, Method, draw_query_indices, draw_route, sample_noise, update
from danceopd_ext.models.family import TextConditions
from danceopd_ext.models.loading import load_text_pipeline, load_transformer
from danceopd_ext.toolkits.native.batches import StepData
from danceopd_ext.toolkits.native.build import add_student, build_fields
from danceopd_ext.toolkits.native.prepare import STUDENT, Prepared, torch_dtype
from danceopd_ext.toolkits.native.texts import encode_texts, open_cache

#: what `update` returns: samples through the transformer in each stage, as the update's report names them
COUNTS = ("rollout_forwards", "teacher_forwards", "student_forwards")


class Ours:
    """The native toolkit: prompts encoded once, one transformer with adapters, the package's own update."""

    def __init__(self, prepared: Prepared, accelerator: Accelerator, folder: str):
        self.device, cache = accelerator.device, open_cache(prepared, folder)
        encode_texts(prepared, cache, accelerator, lambda line: None)
        self.data = StepData(prepared, cache, accelerator)
        self.fields = build_fields(prepared, accelerator, lambda line: None)
        self.adapters, self.held = self.fields.adapters, [self.fields.adapters.transformer]

    def update(self, step: int) -> tuple[int, ...]:
        """Accumulate the gradient of a step; return the forwards that COUNTS names."""
        who = (self.fields.teachers, self.fields.student, torch.Tensor.backward, self.device)
        report = update(Method(), step, self.data.plan.seed, self.data.plan.weights, self.data, *who)
        return tuple(getattr(report, key) for key in COUNTS)


class Plain:
    """One sample at a time, whole rollouts, a merged transformer for each teacher, text encoders always there."""

    def __init__(self, prepared: Prepared, accelerator: Accelerator, folder: str):
        self.plan, self.family, self.accelerator = prepared.plan, prepared.family, accelerator
        self.device, dtype = accelerator.device, torch_dtype(prepared.preset.training.mixed_precision)
        self.encoders = load_text_pipeline(prepared.source, dtype, self.device)
        data = StepData(prepared, open_cache(prepared, folder), accelerator)  # of which no text is asked
        size = (prepared.preset.dataset.resolution,) * 2
        self.latent_shape, self.sigmas = data.latent_shape(*size), data.sigmas(*size, Method().rollout_steps).tolist()
        base = load_transformer(prepared.source, dtype).to(self.device)
        loras = {name: found.lora for name, found in prepared.teachers.items()}
        copies = {name: merged(base, lora) for name, lora in loras.items()}
        self.adapters = Adapters(base)
        add_student(self.adapters, prepared, list(loras.values()), print)
        self.adapters.activate(STUDENT)
        prepared.forget_loras()
        self.student, self.teachers = self.field(base), {name: self.field(copied) for name, copied in copies.items()}
        parts = [base, *copies.values(), *self.encoders.components.values()]
        self.held = [part for part in parts if isinstance(part, torch.nn.Module)]

    def field(self, transformer: torch.nn.Module) -> Field:
        def velocity(latents: torch.Tensor, sigma: torch.Tensor, condition: TextConditions) -> torch.Tensor:
            with self.accelerator.autocast():
                return self.family.velocity(transformer, latents, sigma, condition).float()

        return velocity

    @torch.no_grad()
    def encode(self, text: str) -> TextConditions:
        return TextConditions(self.family.encode_prompts(self.encoders, [text]), {}).to(self.device)

    @torch.no_grad()
    def roll_out(self, field: Field, noise: torch.Tensor, condition: TextConditions) -> list[torch.Tensor]:
        """Every state of the student's trajectory, from noise to the clean end."""
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
    """A copy of the base that is the teacher: no adapters to compute."""
    teacher = copy.deepcopy(base)
    for layer, change in lora.modules.items():
        weight = teacher.get_submodule(layer).weight
        weight.data = (weight.data.float() + change.delta().to(weight.device)).to(weight.dtype)
    return teacher


WAYS: dict[str, type[Plain] | type[Ours]] = {"plain": Plain, "ours": Ours}

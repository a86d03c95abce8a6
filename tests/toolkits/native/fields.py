"""The fields of a preset, without a run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from danceopd_ext.config import load_preset
from danceopd_ext.data.plan import Prompt
from danceopd_ext.engine.batches import StepData
from danceopd_ext.lora.weights import Lora
from danceopd_ext.method import MethodOptions, Step, Student, update
from danceopd_ext.toolkits.native.build import Fields, build_fields
from danceopd_ext.toolkits.native.encoding import encode_pictures, encode_prompts, open_caches, step_data
from danceopd_ext.toolkits.native.prepare import prepare
from danceopd_ext.toolkits.native.prompt_lines import PreviewPrompt
from danceopd_ext.toolkits.native.run_plan import STUDENT, RunPlan
from danceopd_ext.toolkits.native.train import make_accelerator
from tests.toolkits.runs import forget_accelerate


@dataclass
class Built:
    """What the loop of a run works with."""

    plan: RunPlan
    fields: Fields
    data: StepData
    told: list[str]

    @property
    def start(self) -> Lora:
        """The student as it is now."""
        return self.fields.adapters.state(STUDENT)

    def ask(self, field, text: str = "red cat", size: int = 2) -> torch.Tensor:
        """A field's velocities at fixed states."""
        latents = torch.randn(size, 4, 8, 8, generator=torch.Generator().manual_seed(1))
        sigma = torch.linspace(0.2, 0.9, size)
        with torch.no_grad():
            return field(latents, sigma, self.data.conditions.of([Prompt(text)] * size))

    def gradient(self, step: int = 0, **method: object) -> torch.Tensor:
        """The student's gradient of one update."""
        options = self.plan.preset.danceopd
        parameters = self.fields.adapters.student_parameters()
        for p in parameters:
            p.grad = None
        now = Step(options=MethodOptions(rollout_steps=options.rollout_steps, **method), seed=7, number=step)
        student = Student(field=self.fields.student, backward=torch.Tensor.backward)
        update(now, self.data.plan.weights, self.data, self.fields.teachers, student)
        return torch.cat([p.grad.flatten() for p in parameters])


def build(path: Path) -> Built:
    """Read a preset and build its model."""
    forget_accelerate()
    preset = load_preset(path, {"optimizer_type": "AdamW"})
    accelerator = make_accelerator(preset)
    previews = [PreviewPrompt("red cat"), PreviewPrompt("a dog")]  # what the tests ask about
    plan = replace(prepare(preset, accelerator), previews=previews)
    encodings = open_caches(plan, path.parent / "cache")
    encode_prompts(plan, encodings, accelerator, lambda _: None)
    encode_pictures(plan, encodings, accelerator, lambda _: None)
    told: list[str] = []
    fields = build_fields(plan, accelerator, told.append)
    return Built(plan, fields, step_data(plan, encodings, accelerator), told)


def far(a: torch.Tensor, b: torch.Tensor) -> float:
    """Relative difference of two tensors."""
    return float((a - b).norm() / b.norm())

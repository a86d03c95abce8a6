"""The fields of a preset, without a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from danceopd_ext.config import load_preset
from danceopd_ext.lora.weights import Lora
from danceopd_ext.method import Method, update
from danceopd_ext.toolkits.native.batches import StepData
from danceopd_ext.toolkits.native.build import Fields, build_fields
from danceopd_ext.toolkits.native.prepare import STUDENT, Prepared, prepare
from danceopd_ext.toolkits.native.prompt_lines import PreviewPrompt
from danceopd_ext.toolkits.native.targets import encode_targets, open_targets
from danceopd_ext.toolkits.native.texts import encode_texts, open_cache
from danceopd_ext.toolkits.native.train import make_accelerator
from tests.toolkits.conftest import forget_accelerate


@dataclass
class Built:
    """What the loop of a run works with."""

    prepared: Prepared
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
            return field(latents, sigma, self.data.conditions([text] * size))

    def gradient(self, step: int = 0, **method: object) -> torch.Tensor:
        """The student's gradient of one update."""
        options = self.prepared.preset.danceopd
        parameters = self.fields.adapters.student_parameters()
        for p in parameters:
            p.grad = None
        update(
            Method(rollout_steps=options.rollout_steps, **method), step, 7, self.data.plan.weights, self.data,
            self.fields.teachers, self.fields.student, torch.Tensor.backward,
        )  # fmt: skip
        return torch.cat([p.grad.flatten() for p in parameters])


def build(path: Path) -> Built:
    """Read a preset and build its model."""
    forget_accelerate()
    preset = load_preset(path)
    preset.optimizer.optimizer_type = "AdamW"
    accelerator = make_accelerator(preset)
    prepared = prepare(preset, accelerator)
    prepared.previews = [PreviewPrompt("red cat"), PreviewPrompt("a dog")]  # what the tests ask about
    cache = open_cache(prepared, str(path.parent / "cache"))
    encode_texts(prepared, cache, accelerator, lambda _: None)
    latents = open_targets(prepared, str(path.parent / "cache"))
    encode_targets(prepared, latents, accelerator, lambda _: None)
    told: list[str] = []
    fields = build_fields(prepared, accelerator, told.append)
    return Built(prepared, fields, StepData(prepared, cache, accelerator, latents), told)


def far(a: torch.Tensor, b: torch.Tensor) -> float:
    """Relative difference of two tensors."""
    return float((a - b).norm() / b.norm())

"""One base in memory: the transformer, its teachers and the student, each as a velocity field."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator

from danceopd_ext.config import Preset
from danceopd_ext.lora.adapters import Adapters
from danceopd_ext.lora.algebra import extract, merge
from danceopd_ext.lora.layout import Layout
from danceopd_ext.lora.weights import Lora
from danceopd_ext.method import Field, generator
from danceopd_ext.models.family import Family, TextConditions
from danceopd_ext.models.loading import load_transformer, stream
from danceopd_ext.toolkits.native.broken import check_adapters
from danceopd_ext.toolkits.native.checks import select_attention
from danceopd_ext.toolkits.native.effects import NOTHING, at_rank, lost_by_rank
from danceopd_ext.toolkits.native.prepare import STUDENT, Prepared, TeacherSource, torch_dtype

Autocast = Callable[[], AbstractContextManager]


class AdapterField:
    """The velocity of the base with one adapter on it (None: the bare base).

    The adapter stays active after the call: gradient checkpointing computes the student's forward again in backward.
    The student's dropout works in the gradient pass only; a rollout is what the finished LoRA would do.
    """

    def __init__(self, family: Family, adapters: Adapters, name: str | None, autocast: Autocast):
        self.family, self.adapters, self.name, self.autocast = family, adapters, name, autocast
        transformer = adapters.transformer
        self.dropouts = [m for m in transformer.modules() if isinstance(m, torch.nn.Dropout) and m.p > 0]

    def __call__(self, latents: torch.Tensor, sigma: torch.Tensor, condition: TextConditions) -> torch.Tensor:
        self.adapters.activate(self.name)
        for dropout in self.dropouts:
            dropout.train(torch.is_grad_enabled())
        with self.autocast():
            return self.family.velocity(self.adapters.transformer, latents, sigma, condition).float()


class CheckpointField:
    """The velocity of a second transformer, which is kept off the device and streamed through it when asked."""

    def __init__(self, family: Family, transformer: torch.nn.Module, device: torch.device, autocast: Autocast):
        self.family, self.transformer, self.autocast = family, transformer, autocast
        if device.type != "cpu":
            stream(transformer, device)

    def __call__(self, latents: torch.Tensor, sigma: torch.Tensor, condition: TextConditions) -> torch.Tensor:
        with torch.no_grad(), self.autocast():
            return self.family.velocity(self.transformer, latents, sigma, condition).float()


@dataclass
class Fields:
    """The model of a run: every field is one shared transformer, but for checkpoint teachers."""

    adapters: Adapters
    base: Field
    teachers: dict[str, Field]
    student: Field
    plain_student: Field
    """The student without student_guidance_scale, for previews."""
    voices: dict[str, Field] = field(default_factory=dict)
    """The teachers without their guidance, to find out which part of one breaks."""


def build_fields(prepared: Prepared, accelerator: Accelerator, say: Callable[[str], None]) -> Fields:
    """Load the base, put teachers and student on it. Raises UserError when weights do not load."""
    preset, family = prepared.preset, prepared.family
    dtype = torch_dtype(preset.training.mixed_precision)
    transformer = load_transformer(prepared.source, dtype)
    select_attention(family, transformer, preset.attention)
    loras = {
        name: teacher_lora(name, found, transformer, prepared.layout, say) for name, found in prepared.teachers.items()
    }
    transformer.to(accelerator.device)
    adapters = Adapters(transformer)
    for name, lora in loras.items():
        if lora:
            adapters.add(adapter_name(name), lora)
    add_student(adapters, prepared, changes_of(prepared.teachers, loras), say)
    if preset.training.gradient_checkpointing:
        transformer.enable_gradient_checkpointing()  # diffusers uses it where gradients are enabled, and only there
    prepared.forget_loras()  # the adapters hold them now
    called = {adapter_name(name): f"[danceopd.teachers.{name}]" for name in prepared.teachers}
    check_adapters(adapters, {**called, STUDENT: start_of(preset)}, preset.training.mixed_precision)
    base = AdapterField(family, adapters, None, accelerator.autocast)
    student = AdapterField(family, adapters, STUDENT, accelerator.autocast)
    voices = {
        name: _teacher_field(name, found, loras[name], base, accelerator, say)
        for name, found in prepared.teachers.items()
    }
    teachers = {
        name: family.guided(voices[name], found.settings.guidance_scale) for name, found in prepared.teachers.items()
    }
    learner = family.guided(student, preset.danceopd.student_guidance_scale)
    return Fields(adapters, base, teachers, learner, student, voices)


def start_of(preset: Preset) -> str:
    """What the student starts from, for a message."""
    if preset.network.network_weights:
        return f"network_weights = {preset.network.network_weights}"
    return f'the start of the student (student_init = "{preset.danceopd.student_init}")'


def adapter_name(teacher: str) -> str:
    """A name that no attribute of a torch module has: teachers may be called "half" or "type"."""
    return f"teacher_{teacher}"


def changes_of(teachers: Mapping[str, TeacherSource], loras: Mapping[str, Lora | None]) -> list[Lora]:
    """What merges: each teacher's change of the base's weights. The base is one of zero that counts in an average.

    A whole checkpoint, whose change nobody has as a LoRA, is left out.
    """
    return [loras[name] or Lora({}) for name, found in teachers.items() if loras[name] or not found.checkpoint]


def add_student(adapters: Adapters, prepared: Prepared, changes: list[Lora], say: Callable[[str], None]) -> None:
    """The trainable LoRA: fresh, from network_weights, or from the merge of the teachers' changes."""
    network, options = prepared.preset.network, prepared.preset.danceopd
    start = prepared.start
    if options.student_init != "fresh":
        start, lost = at_rank(merge(changes, options.student_init.removeprefix("merge_")), network.network_dim)
        if lost:
            say(f"note: {lost_by_rank('merge that the student starts from', network.network_dim, lost)}")
    adapters.add_student(
        STUDENT,
        network.network_dim,
        network.network_alpha or network.network_dim,
        prepared.targets,
        dropout=network.network_dropout or 0.0,
        generator=generator(prepared.preset.training.seed, "student"),
        init=start,
    )


def teacher_lora(
    name: str, found: TeacherSource, transformer: torch.nn.Module | None, layout: Layout, say: Callable[[str], None]
) -> Lora | None:
    """The teacher's LoRA, extracted from its checkpoint if asked; None for the base and for whole checkpoints.

    `transformer`: the base, which only an extraction needs.
    """
    rank = found.settings.extract_rank
    if not (found.checkpoint and rank):
        return found.lora
    tuned = load_transformer(found.checkpoint, torch.float32)
    lora, errors = extract(transformer.state_dict(), tuned.state_dict(), list(layout.shapes), rank)
    if lora.changes_nothing():
        say(f"note: {NOTHING.format(name)} {found.checkpoint.name} has the base's weights")
        return lora
    worst = max(errors.values(), default=0.0)
    mean = sum(errors.values()) / max(len(errors), 1)
    missed = f"{mean:.1%} of a layer's change on average, {worst:.1%} at worst"
    say(f"teacher {name}: rank {rank} of {found.checkpoint.name} misses {missed}")
    return lora


def _teacher_field(
    name: str,
    found: TeacherSource,
    lora: Lora | None,
    base: AdapterField,
    accelerator: Accelerator,
    say: Callable[[str], None],
) -> Field:
    if lora:
        return AdapterField(base.family, base.adapters, adapter_name(name), base.autocast)
    if found.checkpoint:
        tuned = load_transformer(found.checkpoint, base.adapters.transformer.dtype)
        if same_weights(base.adapters.transformer, tuned):
            say(f"note: {NOTHING.format(name)} {found.checkpoint.name} has the base's weights")
        return CheckpointField(base.family, tuned, accelerator.device, base.autocast)
    return base


def same_weights(base: torch.nn.Module, tuned: torch.nn.Module) -> bool:
    """Whether a checkpoint is the base, which may have adapters on it; ends at the first weight that differs."""
    own = {name.replace(".base_layer.", "."): weight for name, weight in base.named_parameters()}
    pairs = ((own[name], weight) for name, weight in tuned.named_parameters() if name in own)
    return all(before.shape == after.shape and after.to(before).equal(before) for before, after in pairs)

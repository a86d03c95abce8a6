"""Builds the velocity fields of a run: base, teachers and student on one transformer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator

from danceopd_ext.engine.block_swap import BlockSwap
from danceopd_ext.engine.compiling import Compilations
from danceopd_ext.engine.fields import AdapterField, CheckpointField, same_weights
from danceopd_ext.engine.finite_checks import check_adapters
from danceopd_ext.engine.model import Model
from danceopd_ext.finite import broken_weight
from danceopd_ext.lora.adapters import Adapters
from danceopd_ext.lora.algebra import extract
from danceopd_ext.lora.weights import Lora
from danceopd_ext.method import Field
from danceopd_ext.models.layout import Layout
from danceopd_ext.models.loading import load_transformer
from danceopd_ext.toolkits.native.no_effect import NOTHING
from danceopd_ext.toolkits.native.run_plan import STUDENT, FoundTeacher, RunPlan
from danceopd_ext.toolkits.native.student import add_student, start_of


@dataclass
class Fields:
    """The fields of a run. All share one transformer, except for teachers that are whole checkpoints."""

    adapters: Adapters
    base: Field
    teachers: dict[str, Field]
    student: Field
    plain_student: Field
    """The student without student_guidance_scale, for previews."""
    unguided_teachers: dict[str, Field] = field(default_factory=dict)
    """The teachers without their guidance, to find out which part of a teacher breaks."""
    swap: BlockSwap | None = None
    compilations: Compilations | None = None

    def broken_weight(self) -> str | None:
        """Return the name of the first weight of base or adapters that is not finite, or None."""
        with self.swap.readable() if self.swap else nullcontext():
            return broken_weight(self.adapters.transformer)


def build_fields(plan: RunPlan, accelerator: Accelerator, say: Callable[[str], None]) -> Fields:
    """Load the base and put teachers and student on it. Raises UserError if weights do not load."""
    preset, model, family = plan.preset, plan.model, plan.family
    transformer, loras = _base_and_loras(plan, say)
    if not model.swaps:
        model.place(transformer)
    adapters = Adapters(transformer)
    for name, lora in loras.items():
        if lora:
            adapters.add(adapter_name(name), lora)
    add_student(adapters, plan, changes_of(plan.teachers, loras), say)
    if preset.training.gradient_checkpointing:
        transformer.enable_gradient_checkpointing()  # diffusers uses it only while gradients are enabled
    plan.loras.free()  # the adapters hold them now
    called = {adapter_name(name): f"[danceopd.teachers.{name}]" for name in plan.teachers}
    check_adapters(adapters, {**called, STUDENT: start_of(preset)}, model.precision)
    base = AdapterField(family, adapters, None, accelerator.autocast)
    student = AdapterField(family, adapters, STUDENT, accelerator.autocast)
    unguided_teachers = {
        name: _teacher_field(name, found, loras[name], base, model, say) for name, found in plan.teachers.items()
    }
    swap = model.place(transformer) if model.swaps else None
    teachers = {
        name: family.guided(unguided_teachers[name], found.settings.guidance_scale)
        for name, found in plan.teachers.items()
    }
    learner = family.guided(student, preset.danceopd.student_guidance_scale)
    compilations = None
    if preset.training.torch_compile:
        compilations = Compilations(family.repeated_blocks(transformer), len(adapters.names))
    return Fields(adapters, base, teachers, learner, student, unguided_teachers, swap, compilations)


def _base_and_loras(plan: RunPlan, say: Callable[[str], None]) -> tuple[torch.nn.Module, dict[str, Lora | None]]:
    """Return the base's transformer, on the CPU, and the LoRA of each teacher that has one.

    LoRAs are extracted from a base that is not quantised: otherwise they would undo the quantisation.
    """
    model = plan.model
    whole = None
    if not model.quantize:
        whole = model.load_transformer()
    elif any(found.checkpoint and found.settings.extract_rank for found in plan.teachers.values()):
        whole = load_transformer(model.files, model.dtype)
    loras = {
        name: teacher_lora(name, found, plan.loras.teachers.get(name), whole, model.layout, say)
        for name, found in plan.teachers.items()
    }
    if model.quantize:
        del whole  # before the other one comes
        return model.load_transformer(), loras
    return whole, loras


def adapter_name(teacher: str) -> str:
    """Return a name that is not an attribute of a torch module: teachers may be called "half" or "type"."""
    return f"teacher_{teacher}"


def changes_of(teachers: Mapping[str, FoundTeacher], loras: Mapping[str, Lora | None]) -> list[Lora]:
    """Return the changes that are merged, one per teacher. The base is a change of zero, which counts in an average.

    A whole checkpoint, whose change is not known as a LoRA, is left out.
    """
    return [loras[name] or Lora({}) for name, found in teachers.items() if loras[name] or not found.checkpoint]


def teacher_lora(
    name: str,
    found: FoundTeacher,
    lora: Lora | None,
    transformer: torch.nn.Module | None,
    layout: Layout,
    say: Callable[[str], None],
) -> Lora | None:
    """Return the teacher's LoRA, extracted from its checkpoint if the preset asks for that.

    None for the base and for whole checkpoints. `lora`: what its files hold. `transformer`: the base, which only an
    extraction needs.
    """
    rank = found.settings.extract_rank
    if not (found.checkpoint and rank):
        return lora
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
    found: FoundTeacher,
    lora: Lora | None,
    base: AdapterField,
    model: Model,
    say: Callable[[str], None],
) -> Field:
    if lora:
        return AdapterField(base.family, base.adapters, adapter_name(name), base.autocast)
    if found.checkpoint:
        tuned = model.load_checkpoint(found.checkpoint)
        if same_weights(base.adapters.transformer, tuned):
            say(f"note: {NOTHING.format(name)} {found.checkpoint.name} has the base's weights")
        return CheckpointField(base.family, tuned, model.device, base.autocast)
    return base

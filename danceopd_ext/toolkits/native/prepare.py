"""Everything that can be wrong with the user's input, found before a weight is loaded or a file is written."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator

from danceopd_ext.config import Preset, Teacher
from danceopd_ext.data.load import load_data
from danceopd_ext.data.plan import Plan
from danceopd_ext.errors import UserError
from danceopd_ext.lora.algebra import combine
from danceopd_ext.lora.layout import Layout
from danceopd_ext.lora.read import read_lora
from danceopd_ext.lora.weights import Lora
from danceopd_ext.models.family import Family
from danceopd_ext.models.loading import Source, find_source, load_layout
from danceopd_ext.toolkits.native.prompt_lines import PreviewPrompt, read_preview_prompts
from danceopd_ext.toolkits.native.state import SavedState, open_state

#: the name of the student's adapter; a teacher cannot be called so
STUDENT = "student"


@dataclass
class TeacherSource:
    """A teacher that was found: a LoRA already in memory, or a checkpoint still on the disk, or neither (the base)."""

    settings: Teacher
    lora: Lora | None = None
    checkpoint: Source | None = None


@dataclass
class Prepared:
    """A run whose input is sound. `config`: the transformer's configuration."""

    preset: Preset
    source: Source
    layout: Layout
    config: dict
    plan: Plan
    notes: list[str]
    teachers: dict[str, TeacherSource]
    start: Lora | None
    targets: list[str]
    previews: list[PreviewPrompt]
    resume: SavedState | None

    @property
    def family(self) -> Family:
        return self.source.family

    @property
    def identity(self) -> dict[str, object]:
        """What must be equal for a saved state to be continued."""
        network, options = self.preset.network, self.preset.danceopd
        return {
            "pretrained_model_name_or_path": self.source.name,
            "network_dim": network.network_dim,
            "network_alpha": network.network_alpha or network.network_dim,
            "lora_targets": self.targets,
            "optimizer_type": self.preset.optimizer.optimizer_type,
            "seed": self.preset.training.seed,
            "rollout_steps": options.rollout_steps,
            "query": options.query,
            "num_queries": options.num_queries,
            "teachers": {name: _teacher_identity(found) for name, found in self.teachers.items()},
            "data": self.plan.fingerprint(),
        }


def prepare(preset: Preset, accelerator: Accelerator) -> Prepared:
    """Find and check everything that the preset names. Raises UserError; writes nothing."""
    _check_device(preset, accelerator)
    source = find_source(
        preset.model.pretrained_model_name_or_path, preset.model.model_type, preset.model.components_from
    )
    layout, config = load_layout(source)
    plan, notes = _load_plan(preset, accelerator.num_processes)
    _check_sizes(plan, source, config)
    teachers = {name: _find_teacher(name, t, source, layout) for name, t in preset.danceopd.teachers.items()}
    targets = choose_targets(preset, source.family, layout, teachers)
    start = read_lora(preset.network.network_weights, layout) if preset.network.network_weights else None
    previews = read_preview_prompts(preset.sampling.sample_prompts, source, config) if _draws(preset) else []
    prepared = Prepared(preset, source, layout, config, plan, notes, teachers, start, targets, previews, None)
    if preset.saving.resume:
        prepared.resume = open_state(Path(preset.saving.resume), prepared.identity, preset.training.max_train_steps)
    check_writable(Path(preset.saving.output_dir))
    return prepared


def choose_targets(preset: Preset, family: Family, layout: Layout, teachers: dict[str, TeacherSource]) -> list[str]:
    """Names of the layers that the student changes; one that starts as the merge also has its teachers' layers."""
    endings = preset.danceopd.lora_targets or list(family.lora_targets)
    unused = [e for e in endings if not any(_ends_with(layer, e) for layer in layout.shapes)]
    if unused:
        raise UserError(f"lora_targets: no layer of {family.title} ends with {unused[0]}.")
    chosen = {layer for layer in layout.shapes if any(_ends_with(layer, e) for e in endings)}
    if preset.danceopd.student_init != "fresh":
        loras = [found.lora for found in teachers.values() if found.lora]
        if not loras:
            raise UserError(f"student_init = {preset.danceopd.student_init}: no teacher is a LoRA, nothing to merge.")
        chosen.update(*(lora.modules for lora in loras))
    return sorted(chosen)


def _ends_with(layer: str, ending: str) -> bool:
    return layer == ending or layer.endswith("." + ending)


def _check_device(preset: Preset, accelerator: Accelerator) -> None:
    if preset.training.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        raise UserError('mixed_precision = "fp16" needs a GPU; without one use "no" or "bf16".')


def _draws(preset: Preset) -> bool:
    return bool(
        preset.sampling.sample_prompts and (preset.sampling.sample_every_n_steps or preset.sampling.sample_at_first)
    )


def _load_plan(preset: Preset, processes: int) -> tuple[Plan, list[str]]:
    options, training = preset.danceopd, preset.training
    return load_data(
        list(options.teachers),
        dataset_config=preset.dataset.dataset_config,
        prompts=options.prompts,
        resolution=preset.dataset.resolution,
        weights=options.routes or None,
        seed=training.seed,
        train_batch_size=training.train_batch_size,
        processes=processes,
        micro_batches=training.gradient_accumulation_steps,
    )


def _check_sizes(plan: Plan, source: Source, config: dict) -> None:
    limits = source.family.size_limits(config, source.vae_scale_factor)
    plan.check_sizes(limits.multiple, limits.multiple, limits.maximum)


def _find_teacher(name: str, settings: Teacher, source: Source, layout: Layout) -> TeacherSource:
    if name == STUDENT or "." in name or not name:
        raise UserError(f'[danceopd.teachers.{name}]: a teacher cannot be called "{name}"; choose a plain word.')
    try:
        if settings.checkpoint:
            checkpoint = find_source(settings.checkpoint, source.family.name, str(source.components))
            return TeacherSource(settings, checkpoint=checkpoint)
        ignore = settings.ignore_text_encoder
        loras = [read_lora(place, layout, ignore_text_encoder=ignore) for place in settings.loras]
    except UserError as error:
        raise UserError(f"[danceopd.teachers.{name}] {error}") from error
    return TeacherSource(settings, lora=combine(list(zip(loras, settings.strengths, strict=True))) if loras else None)


def _teacher_identity(found: TeacherSource) -> str:
    """The teacher in words, with a digest of its LoRA: another file under the same name is another teacher."""
    what = found.checkpoint.name if found.checkpoint else "base"
    if found.lora:
        total = sum(float(m.up_OR.double().sum() * 3 + m.down_RI.double().sum()) for m in found.lora.modules.values())
        what = f"LoRA {len(found.lora.modules)} layers {total:.6e}"
    return f"{what}, guidance {found.settings.guidance_scale:g}, extract {found.settings.extract_rank}"


def check_writable(folder: Path) -> None:
    """Raise UserError unless files can be made in `folder` (or the folder itself, where it does not exist yet)."""
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    try:
        if not existing.is_dir():
            raise NotADirectoryError(20, "it is a file, not a folder", str(existing))
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise UserError(
            f"output_dir = {os.fspath(folder)!r} cannot be written ({error.strerror or error}): choose another folder."
        ) from error


def torch_dtype(name: str) -> torch.dtype:
    """The dtype of mixed_precision and save_precision words."""
    return {"no": torch.float32, "float": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[name]

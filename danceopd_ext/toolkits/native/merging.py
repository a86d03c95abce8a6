"""Merges the teachers' LoRAs into one, for the methods that train nothing (paper, baselines: weight merge).

An average is over the teachers' models: a teacher without a LoRA is the base, a change of zero that counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from accelerate import Accelerator

from danceopd_ext.config import Preset
from danceopd_ext.config.as_used import native_preset
from danceopd_ext.engine.model import Model
from danceopd_ext.engine.precision import torch_dtype
from danceopd_ext.errors import TrainingError, UserError, printable
from danceopd_ext.fallback_folders import NotSaved, save_result
from danceopd_ext.lora.algebra import merge
from danceopd_ext.lora.weights import Lora
from danceopd_ext.lora.write import write_lora
from danceopd_ext.method import MERGES
from danceopd_ext.models.loading import load_transformer
from danceopd_ext.toolkits.earlier_results import sole_writer
from danceopd_ext.toolkits.native.build import changes_of, teacher_lora
from danceopd_ext.toolkits.native.checks import check_output
from danceopd_ext.toolkits.native.no_effect import at_rank, lost_by_rank
from danceopd_ext.toolkits.native.output import lora_metadata
from danceopd_ext.toolkits.native.prepare import model_of
from danceopd_ext.toolkits.native.run_plan import FoundTeacher
from danceopd_ext.toolkits.native.teachers import check_mergeable, fetch_weights, find_teachers
from danceopd_ext.toolkits.preset_record import write_record


def merge_teachers(preset: Preset, accelerator: Accelerator) -> Path:
    """Write the merge of the preset's teachers, compressed to network_dim, and return the file's path.

    Raises UserError for a teacher that is not a change of weights, and for keys that belong to training.
    """
    started_at, notes = time.time(), list(preset.notes)
    check_preset(preset)
    model, own = model_of(preset, accelerator, check=False), []
    teachers, loras = find_teachers(preset.danceopd.teachers, model, own)
    check_mergeable(loras, f'method = "{preset.danceopd.method}"')
    notes += check_output(preset)
    accelerator.wait_for_everyone()  # so that the others do not take what the first process writes for an earlier run's
    if has_checkpoint(teachers):
        model, teachers = fetch_weights(model, teachers)
    path = Path(preset.saving.output_dir) / f"{preset.saving.output_name}.safetensors"
    with sole_writer(path.parent, preset.saving.output_name, preset.danceopd.overwrite) as more:
        for note in [*notes, *own, *more]:
            accelerator.print(printable(f"note: {note}"))
        if accelerator.is_main_process:
            write_record(path.parent, preset.saving.output_name, native_preset(preset), print)
            path = write_merge(path, preset, model, all_loras(teachers, loras, model), started_at)
    accelerator.wait_for_everyone()
    return path


def write_merge(path: Path, preset: Preset, model: Model, loras: list[Lora], started_at: float) -> Path:
    """Merge, write the file, in another folder if need be, and return its path.

    started_at: in seconds since the epoch, for its metadata.
    """
    merged = merge(loras, MERGES[preset.danceopd.method])
    lora, lost = at_rank(merged, preset.network.network_dim)
    if lost:
        print(lost_by_rank("merge", preset.network.network_dim, lost))
    extra = {"ss_danceopd_forwards": 0, "ss_danceopd_merge_loss": lost}
    metadata = lora_metadata(preset, model, {}, extra, started_at=started_at)
    dtype = torch_dtype(preset.saving.save_precision)
    dialect = model.family.format_of(preset.saving.save_model_as, lora.modules)
    return saved(lambda place: write_lora(place, lora, model.layout, dialect, metadata, dtype), path)


def saved(write: Callable[[Path], object], wanted: Path) -> Path:
    """Write the merge, in another folder if need be; return the path. Raises TrainingError if no folder takes it."""
    try:
        placed = save_result(write, wanted, anywhere=True)
    except NotSaved as error:
        raise TrainingError(str(error)) from error
    if placed.path != wanted:
        print(placed.message(wanted))
    return placed.path


def check_preset(preset: Preset) -> None:
    """Raise UserError for teachers that cannot be merged, and for keys that belong to training."""
    options = preset.danceopd
    method = f'method = "{options.method}"'
    for key, value in (("network_weights", preset.network.network_weights), ("resume", preset.saving.resume)):
        if value:
            raise UserError(f"{key}: {method} does not train, so nothing can start from it. Remove {key}.")
    for name, teacher in options.teachers.items():
        where = f"[danceopd.teachers.{name}]"
        if teacher.guidance_scale != 1:
            raise UserError(
                f"{where} guidance_scale: {method} adds weights, and guidance is not part of the weights. Remove it, "
                "or "
                'train with method = "danceopd", which absorbs it.'
            )
        if teacher.checkpoint and not teacher.extract_rank:
            raise UserError(
                f"{where} checkpoint: {method} merges LoRAs. Set extract_rank to turn the checkpoint into one."
            )
    if not any(teacher.loras or teacher.checkpoint for teacher in options.teachers.values()):
        raise UserError(f"{method}: no teacher is a LoRA, there is nothing to merge.")


def has_checkpoint(teachers: Mapping[str, FoundTeacher]) -> bool:
    """Whether weights are needed: LoRAs merge by themselves."""
    return any(found.checkpoint for found in teachers.values())


def all_loras(teachers: Mapping[str, FoundTeacher], loras: Mapping[str, Lora], model: Model) -> list[Lora]:
    """Return each teacher's change of the base: a LoRA, read or extracted from a checkpoint, or an empty one."""
    base = load_transformer(model.files, torch.float32) if has_checkpoint(teachers) else None
    changes = {
        name: teacher_lora(name, found, loras.get(name), base, model.layout, print) for name, found in teachers.items()
    }
    return changes_of(teachers, changes)

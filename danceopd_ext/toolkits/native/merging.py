"""The methods that train nothing: the teachers' LoRAs merged into one (paper, baselines: weight merge).

The average is that of the teachers' models: a teacher without a LoRA is the base itself, a change of zero that counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator

from danceopd_ext.config import Preset
from danceopd_ext.elsewhere import NoPlace, put
from danceopd_ext.errors import TrainingError, UserError, printable
from danceopd_ext.lora.algebra import merge
from danceopd_ext.lora.layout import Layout
from danceopd_ext.lora.weights import Lora
from danceopd_ext.lora.write import write_lora
from danceopd_ext.method import MERGES
from danceopd_ext.models.loading import Source, find_source, load_layout, load_transformer
from danceopd_ext.toolkits.earlier import sole_writer
from danceopd_ext.toolkits.native.build import changes_of, teacher_lora
from danceopd_ext.toolkits.native.checks import check_output
from danceopd_ext.toolkits.native.effects import at_rank, lost_by_rank, of_teacher
from danceopd_ext.toolkits.native.output import lora_metadata
from danceopd_ext.toolkits.native.prepare import (
    TeacherSource,
    check_mergeable,
    fetch_weights,
    find_teacher,
    torch_dtype,
)


def merge_teachers(preset: Preset, accelerator: Accelerator) -> Path:
    """Write the merge of the preset's teachers, compressed to network_dim, and return the file's path.

    Raises UserError for a teacher that is no change of weights, and for keys that only training has.
    """
    started_at = time.time()
    check_preset(preset)
    source = find_source(
        preset.model.pretrained_model_name_or_path, preset.model.model_type, preset.model.components_from
    )
    layout = load_layout(source)[0]
    teachers = {name: find_teacher(name, t, source, layout) for name, t in preset.danceopd.teachers.items()}
    check_mergeable(teachers, f'method = "{preset.danceopd.method}"')
    notes = [*preset.notes, *check_output(preset)]
    accelerator.wait_for_everyone()  # what the first process writes is not an earlier run's to the others
    if has_checkpoint(teachers):
        source = fetch_weights(source, teachers)
    notes += [note for name, found in teachers.items() for note in of_teacher(name, found)]
    path = Path(preset.saving.output_dir) / f"{preset.saving.output_name}.safetensors"
    with sole_writer(path.parent, preset.saving.output_name, preset.danceopd.overwrite) as more:
        for note in [*notes, *more]:
            accelerator.print(printable(f"note: {note}"))
        if accelerator.is_main_process:
            path = write_merge(path, preset, source, layout, teachers, started_at)
    accelerator.wait_for_everyone()
    return path


def write_merge(
    path: Path,
    preset: Preset,
    source: Source,
    layout: Layout,
    teachers: dict[str, TeacherSource],
    started_at: float,
) -> Path:
    """Merge, write the file where there is room, and return its path.

    started_at: in seconds since the epoch, for its metadata.
    """
    merged = merge(all_loras(teachers, source, layout), MERGES[preset.danceopd.method])
    lora, lost = at_rank(merged, preset.network.network_dim)
    if lost:
        print(lost_by_rank("merge", preset.network.network_dim, lost))
    extra = {"ss_danceopd_forwards": 0, "ss_danceopd_merge_loss": lost}
    metadata = lora_metadata(preset, source, layout, {}, extra, started_at=started_at)
    dtype = torch_dtype(preset.saving.save_precision)
    dialect = source.family.format_of(preset.saving.save_model_as, lora.modules)
    return saved(lambda place: write_lora(place, lora, layout, dialect, metadata, dtype), path)


def saved(write: Callable[[Path], object], wanted: Path) -> Path:
    """Write the merge where there is room; return the path. Raises TrainingError if no place takes it."""
    try:
        placed = put(write, wanted, anywhere=True)
    except NoPlace as error:
        raise TrainingError(str(error)) from error
    if placed.path != wanted:
        print(placed.told(wanted))
    return placed.path


def check_preset(preset: Preset) -> None:
    """Raise UserError for what cannot be merged, or says how to train."""
    options = preset.danceopd
    method = f'method = "{options.method}"'
    for key, value in (("network_weights", preset.network.network_weights), ("resume", preset.saving.resume)):
        if value:
            raise UserError(f"{key}: {method} trains nothing that could start from it. Remove {key}.")
    for name, teacher in options.teachers.items():
        where = f"[danceopd.teachers.{name}]"
        if teacher.guidance_scale != 1:
            raise UserError(
                f"{where} guidance_scale: {method} adds weights, and guidance is not in the weights. Remove it, or "
                'train with method = "danceopd", which absorbs it.'
            )
        if teacher.checkpoint and not teacher.extract_rank:
            raise UserError(f"{where} checkpoint: {method} merges LoRAs. Set extract_rank to make one of it.")
    if not any(teacher.loras or teacher.checkpoint for teacher in options.teachers.values()):
        raise UserError(f"{method}: no teacher is a LoRA, there is nothing to merge.")


def has_checkpoint(teachers: dict[str, TeacherSource]) -> bool:
    """Whether weights are needed: LoRAs merge by themselves."""
    return any(found.checkpoint for found in teachers.values())


def all_loras(teachers: dict[str, TeacherSource], source: Source, layout: Layout) -> list[Lora]:
    """Each teacher's change of the base: a LoRA read, one extracted from a checkpoint, or none at all."""
    base = None
    if has_checkpoint(teachers):
        base = load_transformer(source, torch.float32)
    loras = {name: teacher_lora(name, found, base, layout, print) for name, found in teachers.items()}
    return changes_of(teachers, loras)

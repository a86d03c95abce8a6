"""Finds the teachers of a preset: reads their LoRAs, and checks their checkpoints without loading them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from danceopd_ext.config import Teacher
from danceopd_ext.engine.checks import check_transformer
from danceopd_ext.engine.model import Model
from danceopd_ext.errors import UserError
from danceopd_ext.lora.algebra import check_additive, combine
from danceopd_ext.lora.read import read_lora
from danceopd_ext.lora.weights import Lora
from danceopd_ext.models.layout import Layout
from danceopd_ext.models.loading import load_layout
from danceopd_ext.models.model_files import ModelFiles, fetch, find_model_files
from danceopd_ext.toolkits.native.no_effect import of_teacher, zero_files
from danceopd_ext.toolkits.native.run_plan import STUDENT, FoundTeacher


def find_teachers(
    settings: Mapping[str, Teacher], model: Model, notes: list[str]
) -> tuple[dict[str, FoundTeacher], dict[str, Lora]]:
    """Return the teachers, and the LoRAs of those that have one; a checkpoint on the hub is not downloaded yet.

    `notes` gets what in their files has no effect. Raises UserError naming the teacher.
    """
    teachers, loras, told = {}, {}, []
    for name, own in settings.items():
        _check_name(name)
        try:
            checkpoint = _find_checkpoint(own, model) if own.checkpoint else None
            parts = [read_lora(place, model.layout, **own.ignored) for place in own.loras]
        except UserError as error:
            raise UserError(f"[danceopd.teachers.{name}] {error}") from error
        teachers[name] = FoundTeacher(own, checkpoint)
        if parts:
            loras[name] = combine(list(zip(parts, own.strengths, strict=True)))
        told += of_teacher(name, loras.get(name), zero_files(parts))
    notes += told
    return teachers, loras


def _check_name(name: str) -> None:
    if name == STUDENT or "." in name or not name:
        raise UserError(f'[danceopd.teachers.{name}]: a teacher cannot be called "{name}"; choose a plain word.')


def _find_checkpoint(own: Teacher, model: Model) -> ModelFiles:
    checkpoint = find_model_files(own.checkpoint, model.family.name, str(model.files.components), key="checkpoint")
    check_transformer(checkpoint)
    _check_same_size(checkpoint, model.layout)
    for files in (model.files, checkpoint) if own.extract_rank else ():
        if files.is_quantised:
            raise UserError(
                f"extract_rank: {files.transformer} is quantised, so a LoRA of the difference would hold its rounding. "
                "Use its version in bf16, or remove extract_rank."
            )
    return checkpoint


def _check_same_size(checkpoint: ModelFiles, layout: Layout) -> None:
    other = load_layout(checkpoint)[0].shapes
    wrong = [name for name in {**layout.shapes, **other} if layout.shapes.get(name) != other.get(name)]
    if wrong:
        raise UserError(
            f"{checkpoint.name} is of another size than the base: {len(wrong)} layers differ, such as "
            f"{wrong[0]}. Use a checkpoint that was trained from exactly this base."
        )


def fetch_weights(model: Model, teachers: Mapping[str, FoundTeacher]) -> tuple[Model, dict[str, FoundTeacher]]:
    """Download models that are still on the hub, each once, and check them.

    Returns base and teachers with their files.
    """
    download = lru_cache(maxsize=None)(fetch)
    model, fetched = model.fetched(download), {}
    for name, found in teachers.items():
        checkpoint = download(found.checkpoint) if found.checkpoint else None
        if checkpoint:
            check_transformer(checkpoint)
        fetched[name] = FoundTeacher(found.settings, checkpoint)
    return model, fetched


def check_mergeable(loras: Mapping[str, Lora], setting: str) -> None:
    """Raise UserError naming the teacher whose change cannot be added to others: a DoRA."""
    for name, lora in loras.items():
        try:
            check_additive(lora, f"{setting} adds changes. Use another teacher here, or another setting.")
        except UserError as error:
            raise UserError(f"[danceopd.teachers.{name}] {error}") from error

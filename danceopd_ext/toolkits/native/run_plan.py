"""Holds the plan of a run: everything known about it before the first weight is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from danceopd_ext.config import Preset, Teacher
from danceopd_ext.data.pictures import PictureFile
from danceopd_ext.data.plan import Plan
from danceopd_ext.data.source_images import SourceImages
from danceopd_ext.engine.model import Model
from danceopd_ext.lora.weights import Lora
from danceopd_ext.models.family import Family
from danceopd_ext.models.model_files import ModelFiles
from danceopd_ext.toolkits.native.prompt_lines import PreviewPrompt
from danceopd_ext.toolkits.native.state import SavedState

#: the name of the student's adapter; no teacher can have it
STUDENT = "student"


@dataclass
class Loras:
    """The LoRAs that were read. The model takes them over; this is the only part of a plan that changes.

    `teachers`: name -> its LoRA, for teachers that have one. `start`: what the student starts from.
    """

    teachers: dict[str, Lora] = field(default_factory=dict)
    start: Lora | None = None

    def free(self) -> None:
        """Drop the LoRAs to free their memory."""
        self.teachers, self.start = {}, None


@dataclass(frozen=True)
class FoundTeacher:
    """A teacher of the preset whose files were found. Its LoRA is in `Loras`; its checkpoint is not loaded yet.

    A teacher with neither is the base.
    """

    settings: Teacher
    checkpoint: ModelFiles | None = None


@dataclass(frozen=True)
class RunPlan:
    """A run whose input was checked.

    `data`: which samples each step trains. `student_layers`: the names of the layers that the student changes.
    `source_images`: the model's rules for them, and those that the run uses. `pictures`: the picture files that the
    method starts from. `resume`: the state that the run continues. `identity`: what must be equal for a saved state to
    be continued. `offline`: whether W&B records this run offline because its server does not answer.
    """

    preset: Preset
    model: Model
    data: Plan
    teachers: Mapping[str, FoundTeacher]
    loras: Loras
    student_layers: Sequence[str]
    previews: Sequence[PreviewPrompt]
    source_images: SourceImages
    pictures: Mapping[Path, PictureFile]
    notes: Sequence[str]
    identity: Mapping[str, object] = field(default_factory=dict)
    resume: SavedState | None = None
    offline: bool = False

    @property
    def family(self) -> Family:
        return self.model.family

    @property
    def is_guided(self) -> bool:
        """Whether a teacher or the student is asked with guidance."""
        options = self.preset.danceopd
        scales = [options.student_guidance_scale, *(teacher.guidance_scale for teacher in options.teachers.values())]
        return any(scale != 1 for scale in scales)

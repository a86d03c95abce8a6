"""Makes the tasks that score the quickstart's models: prompts, edits and source images that training did not see."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from diffusers import ZImageOmniPipeline

from danceopd_ext.demo.edit_check import score_edits
from danceopd_ext.demo.edits import EDIT_KINDS, Edit
from danceopd_ext.demo.omni_draw import encode_edits, encode_texts
from danceopd_ext.demo.omni_score import pick_prompts
from danceopd_ext.demo.scene import Scene
from danceopd_ext.demo.world import SKILLS, read_scenes, render, shows
from danceopd_ext.models.family import PromptTensors

#: drawings of each skill, edits of each kind
DRAWINGS, EDITS = 40, 16
#: draws the edits; no other code uses it
EDIT_SEED = 20260703
OWNERS = {name: skill.owner for name, skill in SKILLS.items()} | dict.fromkeys(EDIT_KINDS, "teacher:edit")
"""Skill -> the model that teaches it."""


@dataclass(frozen=True)
class Drawings:
    """Captions of one skill."""

    texts: list[str]
    scenes: list[Scene]

    def encode(self, pipeline: ZImageOmniPipeline) -> list[PromptTensors]:
        return encode_texts(pipeline, self.texts)

    def sources(self) -> None:
        """There are none."""

    def marks(self, pictures: np.ndarray) -> list[float]:
        """1 for each picture that shows what was asked, 0 for the others."""
        return [float(shows(*read, scene)) for read, scene in zip(read_scenes(pictures), self.scenes, strict=True)]


@dataclass(frozen=True)
class Edits:
    """Edits of one kind."""

    edits: list[Edit]

    @property
    def texts(self) -> list[str]:
        return [edit.instruction for edit in self.edits]

    def encode(self, pipeline: ZImageOmniPipeline) -> list[PromptTensors]:
        return encode_edits(pipeline, self.texts, self.sources())

    def sources(self) -> np.ndarray:
        """uint8 [N, 32, 32, 3]."""
        return np.stack([render(edit.source) for edit in self.edits])

    def marks(self, pictures: np.ndarray) -> list[float]:
        """The overall score 0..1 of each picture; 1 is the asked change and no other."""
        return [score.overall for score in score_edits(self.edits, pictures)]


Task = Drawings | Edits


def tasks() -> dict[str, Task]:
    """Skill -> what it is scored on: the world's four, then the six kinds of edits."""
    found: dict[str, Task] = {}
    for name in SKILLS:
        pairs = pick_prompts(name, DRAWINGS)
        found[name] = Drawings([text for text, _ in pairs], [scene for _, scene in pairs])
    for kind in EDIT_KINDS.values():
        found[kind.name] = Edits(kind.sample_many(EDITS, "test", EDIT_SEED))
    return found

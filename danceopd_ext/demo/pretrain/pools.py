"""Makes the training data of the editing demo: drawings and edits of the world, encoded once.

The base draws the six kinds of prompts as filled shapes on plain backgrounds, and the first two of the world's skills.
Hollow shapes and checkered backgrounds it has only seen in source images: they are its teachers' to draw.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from diffusers import ZImageOmniPipeline

from danceopd_ext.demo.edits import EDIT_KINDS, Edit, Scope, random_scene
from danceopd_ext.demo.kinds import Prompt, kinds
from danceopd_ext.demo.omni_draw import encode_glances, encode_latents, encode_texts
from danceopd_ext.demo.scene import Scene, caption, describe
from danceopd_ext.demo.splits import Split, split_of
from danceopd_ext.demo.world import SKILLS, render
from danceopd_ext.models.family import PromptTensors
from danceopd_ext.models.z_image_omni import GLANCE


@dataclass(frozen=True)
class Pool:
    """N examples that a step can draw from."""

    targets: torch.Tensor
    """float32 [N, c, h, w]"""
    texts: list[PromptTensors]
    """the encoded caption or instruction of each"""
    blank: PromptTensors
    """the encoded empty prompt, with as many source images"""
    sources: torch.Tensor | None = None
    """float32 [N, c, h, w], of edits"""
    glances: list[torch.Tensor] | None = None

    def __len__(self) -> int:
        return len(self.texts)

    def condition(self, index: int, blank: bool) -> PromptTensors:
        """What example `index` is drawn from, with its text or without."""
        text = self.blank if blank else self.texts[index]
        if self.sources is None or self.glances is None:
            return text
        return {**text, "source_0": self.sources[index], f"{GLANCE}0": self.glances[index]}


def base_prompts(kind: str, split: Split) -> list[Prompt]:
    """The prompts of a kind that are the base's: filled shapes on a plain background."""
    return [prompt for prompt in kinds()[kind].prompts(split) if not (prompt.hollow or prompt.checkered)]


def drawings(per_kind: int, redraw: Callable[[Prompt], Prompt] = lambda prompt: prompt) -> list[tuple[str, Scene]]:
    """(caption, scene) pairs of the training split, as many of each kind of prompt.

    `redraw` changes what is drawn for a caption: a style's way to draw it.
    """
    pairs = []
    for name in kinds():
        prompts = base_prompts(name, "train")
        for number in range(per_kind):
            prompt = prompts[number % len(prompts)]
            pairs.append((prompt.caption, redraw(prompt).usual))
    return pairs


def skill_drawings(names: Iterable[str], repeat: int = 1) -> list[tuple[str, Scene]]:
    """(caption, scene) pairs of the training split of `world.SKILLS`."""
    pairs = [(caption(scene), scene) for name in names for _, scene in SKILLS[name].prompts("train")]
    return pairs * repeat


def described_drawings(count: int, seed: int, most: int = 2) -> list[tuple[str, Scene]]:
    """(description, scene) pairs of the training split: 1 to `most` filled objects on a plain background.

    Nothing is left open, as a caption of `drawings` leaves most, so that what a word means is quickly learnt.
    """
    random = np.random.default_rng([seed, 3])
    pairs: list[tuple[str, Scene]] = []
    while len(pairs) < count:
        scene = random_scene(random, int(random.integers(1, most + 1)))
        objects = tuple(replace(item, hollow=False) for item in scene.objects)
        scene = replace(scene, objects=objects, checkered=False)
        if split_of(describe(scene)) == "train":
            pairs.append((describe(scene), scene))
    return pairs


def edits_of(scope: Scope | None, per_kind: int, seed: int, split: Split = "train") -> list[Edit]:
    """As many edits of each kind; of the local or the global kinds, or of all."""
    chosen = [kind for kind in EDIT_KINDS.values() if scope in (None, kind.scope)]
    return [edit for kind in chosen for edit in kind.sample_many(per_kind, split, seed)]


def drawing_pool(pipeline: ZImageOmniPipeline, pairs: Sequence[tuple[str, Scene]]) -> Pool:
    """Return the training data of (caption, scene) pairs, encoded."""
    return Pool(
        targets=encode_latents(pipeline, np.stack([render(scene) for _, scene in pairs])),
        texts=encode_texts(pipeline, [text for text, _ in pairs]),
        blank=encode_texts(pipeline, [""])[0],
    )


def edit_pool(pipeline: ZImageOmniPipeline, edits: Sequence[Edit]) -> Pool:
    """Return the training data of edits, encoded, with their source images."""
    sources = np.stack([render(edit.source) for edit in edits])
    return Pool(
        targets=encode_latents(pipeline, np.stack([render(edit.target) for edit in edits])),
        texts=encode_texts(pipeline, [edit.instruction for edit in edits], images=1),
        blank=encode_texts(pipeline, [""], images=1)[0],
        sources=encode_latents(pipeline, sources),
        glances=encode_glances(pipeline, sources),
    )

"""Scores an editing pipeline on held-out prompts and edits, by the exact checks of the benchmark."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

import numpy as np
from diffusers import ZImageOmniPipeline

from danceopd_ext.demo.edits import EDIT_KINDS, Edit
from danceopd_ext.demo.kind_scores import EditScores, TextToImageScores, score_drawings, score_edited
from danceopd_ext.demo.kinds import Prompt, kinds
from danceopd_ext.demo.omni_draw import draw, encode_edits, encode_texts
from danceopd_ext.demo.scene import Scene, describe
from danceopd_ext.demo.world import SKILLS, read_scenes, render, shows
from danceopd_ext.models.family import PromptTensors


def held_out_prompts(per_kind: int) -> list[Prompt]:
    """As many prompts of each kind that training has not seen, filled and plain; repeated where there are fewer."""
    chosen = []
    for kind in kinds().values():
        prompts = [p for p in kind.prompts("test") if not (p.hollow or p.checkered)]
        chosen += [prompts[i * len(prompts) // per_kind % len(prompts)] for i in range(per_kind)]
    return chosen


def held_out_edits(per_kind: int, seed: int = 1_000_003) -> list[Edit]:
    """As many edits of each kind whose sources, targets and local instructions training has not seen."""
    chosen = []
    for kind in EDIT_KINDS.values():
        more = kind.sample_many(per_kind + per_kind // 2 + 4, "test", seed)  # some of them are drawn in training
        chosen += [edit for edit in more if not drawn_in_training() & _pictures_of(edit)][:per_kind]
    return chosen


def _pictures_of(edit: Edit) -> set[str]:
    return {describe(scene) for scene in (edit.source, *edit.targets)}


@cache
def drawn_in_training() -> frozenset[str]:
    """Return the pictures of the drawing routes, filled and outlined.

    Prompts are held out by their captions, which do not say all that a picture shows. So some of these pictures are
    sources or targets of held-out edits.
    """
    prompts = [prompt for kind in kinds().values() for prompt in kind.prompts("train")]
    filled = [prompt for prompt in prompts if not (prompt.hollow or prompt.checkered)]
    return frozenset(describe(shown.usual) for prompt in filled for shown in (prompt, outlined(prompt)))


def score_prompts(
    pipeline: ZImageOmniPipeline,
    per_kind: int,
    asked: Callable[[Prompt], Prompt] = lambda prompt: prompt,
    **options,
) -> TextToImageScores:
    """The benchmark's text-to-image scores; `asked` says what a picture of a prompt must show, where it is a style."""
    prompts = held_out_prompts(per_kind)
    pictures = draw(pipeline, encode_texts(pipeline, [prompt.caption for prompt in prompts]), **options)
    return score_drawings([asked(prompt) for prompt in prompts], pictures)


def outlined(prompt: Prompt) -> Prompt:
    """What the demo's style shows for a prompt: its shapes as outlines."""
    return replace(prompt, hollow=True)


def score_instructions(pipeline: ZImageOmniPipeline, per_kind: int, **options) -> EditScores:
    """The benchmark's edit scores."""
    edits = held_out_edits(per_kind)
    return score_edited(edits, draw(pipeline, encode_asked(pipeline, edits), **options))


def encode_asked(pipeline: ZImageOmniPipeline, edits: Sequence[Edit]) -> list[PromptTensors]:
    """The conditions of edits: their instructions and sources."""
    sources = np.stack([render(edit.source) for edit in edits])
    return encode_edits(pipeline, [edit.instruction for edit in edits], sources)


def pick_prompts(skill: str, limit: int | None = None) -> list[tuple[str, Scene]]:
    """Up to `limit` held-out (caption, scene) pairs of a skill, spread evenly over its list; repeated if shorter."""
    pairs = SKILLS[skill].prompts("test")
    if limit is None:
        return pairs
    return [pairs[index * len(pairs) // limit % len(pairs)] for index in range(limit)]


def score_skills(
    pipeline: ZImageOmniPipeline, skills: Sequence[str] = tuple(SKILLS), limit: int | None = None, **options
) -> dict[str, float]:
    """The fraction of right drawings, 0..1, per skill of `world.SKILLS`, on its held-out captions."""
    scores = {}
    for name in skills:
        pairs = pick_prompts(name, limit)
        pictures = draw(pipeline, encode_texts(pipeline, [text for text, _ in pairs]), **options)
        right = [shows(*read, scene) for read, (_, scene) in zip(read_scenes(pictures), pairs, strict=True)]
        scores[name] = float(np.mean(right))
    return scores

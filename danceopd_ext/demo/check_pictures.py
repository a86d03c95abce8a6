"""Draws example pictures of every kind of the benchmark, right and wrong, with the verdict of the checks."""

import numpy as np
from PIL import Image

from danceopd_ext.demo.edit_check import score_edits
from danceopd_ext.demo.edits import EDIT_KINDS
from danceopd_ext.demo.kinds import check_all, kinds, pick
from danceopd_ext.demo.near_misses import other_changes, wrong_changes, wrong_scenes
from danceopd_ext.demo.world import render
from danceopd_ext.picture_grid import draw_grid


def draw_kinds(seed: int = 0, prompts: int = 2) -> Image.Image:
    """A row for each of `prompts` prompts of every text-to-image kind: three right pictures and two wrong ones."""
    random = np.random.default_rng(seed)
    rows = [kind.sample(random, "train") for kind in kinds().values() for _ in range(prompts)]
    wrong = [list(wrong_scenes(prompt, scene, random).values()) for prompt, scene in rows]
    scenes = {
        "right": [scene for _, scene in rows],
        "right too": [prompt.scene(random) for prompt, _ in rows],
        "right, with another": [prompt.scene(random, extras=1) for prompt, _ in rows],
        "wrong": [misses[0] for misses in wrong],
        "wrong too": [misses[-1] for misses in wrong],
    }
    columns = {label: [render(scene) for scene in column] for label, column in scenes.items()}
    asked = [prompt for prompt, _ in rows]
    verdicts = {label: check_all(np.stack(pictures), asked) for label, pictures in columns.items()}
    return draw_grid([f"{prompt.kind}: {prompt.caption}" for prompt in asked], columns, verdicts, "Text to image")


def draw_edits(seed: int = 0, examples: int = 2) -> Image.Image:
    """A row for each of `examples` edits of every kind: source, target, and two ways to fail."""
    random = np.random.default_rng(seed)
    edits = [edit for kind in EDIT_KINDS.values() for edit in kind.sample_many(examples, "train", seed)]
    scenes = {
        "source": [edit.source for edit in edits],
        "target": [edit.target for edit in edits],
        "not as asked": [list(wrong_changes(edit, random).values())[-1] for edit in edits],
        "too much": [pick(random, list(other_changes(edit, random).values())) for edit in edits],
    }
    columns = {label: [render(scene) for scene in column] for label, column in scenes.items()}
    verdicts = {
        label: [score.exact for score in score_edits(edits, np.stack(pictures))]
        for label, pictures in columns.items()
        if label != "source"
    }
    rows = [f"{edit.kind} ({EDIT_KINDS[edit.kind].scope}): {edit.instruction}" for edit in edits]
    return draw_grid(rows, columns, verdicts, "Edits")

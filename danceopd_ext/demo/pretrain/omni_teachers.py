"""Trains the teachers of the editing demo: LoRAs of one skill or of some edits, and a style as a whole checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from diffusers import ZImageOmniPipeline
from peft import LoraConfig

from danceopd_ext.demo.edits import Scope
from danceopd_ext.demo.omni_draw import FAMILY
from danceopd_ext.demo.omni_score import outlined
from danceopd_ext.demo.pretrain.mixed_flow import Share, train_mixed
from danceopd_ext.demo.pretrain.pipeline import edit_json
from danceopd_ext.demo.pretrain.pools import (
    Pool,
    described_drawings,
    drawing_pool,
    drawings,
    edit_pool,
    edits_of,
    skill_drawings,
)
from danceopd_ext.demo.pretrain.teachers import RANK, save_lora
from danceopd_ext.demo.scene import Scene

STYLE = "style"


@dataclass(frozen=True)
class Teacher:
    """What one teacher is trained on."""

    count: int
    """examples a step"""
    pool: Callable[[ZImageOmniPipeline, int, int], Pool]
    """(pipeline, examples of each kind, seed) -> its examples"""
    steps: Literal["skill", "edits"]
    """which of the sizes says how long it is trained"""
    learning_rate: float


def _skill(name: str) -> Teacher:
    return Teacher(32, lambda pipeline, per_kind, seed: drawing_pool(pipeline, skill_drawings([name])), "skill", 1e-3)


def _edits(scope: Scope | None) -> Teacher:
    return Teacher(
        16, lambda pipeline, per_kind, seed: edit_pool(pipeline, edits_of(scope, per_kind, seed)), "edits", 2e-3
    )


LORA_TEACHERS: dict[str, Teacher] = {
    "hollow": _skill("hollow"),
    "checkered": _skill("checkered"),
    "edit": _edits(None),
    "local_edit": _edits("local"),
    "global_edit": _edits("global"),
}


def train_lora(pipeline: ZImageOmniPipeline, name: str, pool: Pool, file: Path, seed: int, **training) -> None:
    """Trains one LoRA from the base, saves it to `file`, and removes it from the pipeline."""
    transformer = pipeline.transformer
    transformer.requires_grad_(False)
    torch.manual_seed(seed)
    config = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=list(FAMILY.lora_targets), init_lora_weights="gaussian")
    transformer.add_adapter(config, adapter_name=name)
    shares = [Share(pool, LORA_TEACHERS[name].count)]
    train_mixed(transformer, shares, name=name, seed=seed, **training)
    save_lora(pipeline, name, file)
    transformer.delete_adapters(name)


def style_pool(pipeline: ZImageOmniPipeline, per_kind: int, seed: int) -> Pool:
    """The base's captions, drawn in the style: outlines."""
    return drawing_pool(pipeline, drawings(per_kind, outlined))


def train_style(pipeline: ZImageOmniPipeline, pool: Pool, folder: Path, seed: int, **training) -> None:
    """Trains all weights from the base, and saves the transformer as a checkpoint in `folder`."""
    pipeline.transformer.requires_grad_(True)
    train_mixed(pipeline.transformer, [Share(pool, 32)], name=STYLE, seed=seed, **training)
    pipeline.transformer.save_pretrained(folder)
    edit_json(folder / "config.json", {}, drop=("_name_or_path",))


def word_shares(pipeline: ZImageOmniPipeline, per_kind: int, seed: int) -> Sequence[Share]:
    """What the base begins with: pictures that their captions describe in full, so that it learns what words mean."""
    return (Share(drawing_pool(pipeline, [*_base_skills(per_kind), *described_drawings(per_kind, seed)]), 48),)


def able_shares(pipeline: ZImageOmniPipeline, per_kind: int, seed: int) -> Sequence[Share]:
    """What the base goes on with: drawings of all its kinds, and all edits."""
    pairs = [*drawings(per_kind), *_base_skills(per_kind), *described_drawings(2 * per_kind, seed)]
    return Share(drawing_pool(pipeline, pairs), 24), Share(edit_pool(pipeline, edits_of(None, per_kind, seed)), 16)


def base_shares(pipeline: ZImageOmniPipeline, per_kind: int, seed: int) -> Sequence[Share]:
    """What the base ends with: it draws as before, and learns to leave every source as it is.

    An editing teacher then brings back what the base has learnt once, which takes minutes: from nothing, it would take
    an hour.
    """
    drawn, edited = able_shares(pipeline, per_kind, seed)
    return drawn, replace(edited, unedited=1.0)


def _base_skills(per_kind: int) -> list[tuple[str, Scene]]:
    return skill_drawings(["single", "count"], repeat=max(1, per_kind // 300))

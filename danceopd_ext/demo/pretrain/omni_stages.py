"""Runs the stages that make the demo's models from a VAE of 32-pixel pictures; each reads the results of earlier ones.

In `folder`: `vae_32/`, `vae/` (of 64-pixel pictures), `words/` (the base as it begins), `able/` (when it can edit),
`pipeline/` (the base), `loras/NAME.safetensors`, `style/` (a whole transformer) and `scores.json`; `unfinished/` holds
the states from which interrupted trainings continue.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, ZImageOmniPipeline, ZImageTransformer2DModel

from danceopd_ext.demo.kind_scores import EditScores, TextToImageScores, table
from danceopd_ext.demo.omni_score import outlined, score_instructions, score_prompts, score_skills
from danceopd_ext.demo.pretrain.doubling import double_vae, smooth_squares
from danceopd_ext.demo.pretrain.mixed_flow import train_mixed
from danceopd_ext.demo.pretrain.omni import build_omni, load_omni, save_omni
from danceopd_ext.demo.pretrain.omni_teachers import (
    LORA_TEACHERS,
    able_shares,
    base_shares,
    style_pool,
    train_lora,
    train_style,
    word_shares,
)
from danceopd_ext.demo.pretrain.teachers import use_loras
from danceopd_ext.demo.pretrain.vae import train_vae


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How long everything is trained, and how closely it is scored."""

    vae: int = 4000
    """steps of the VAE of 32-pixel pictures"""
    squares: int = 300
    """steps that smooth the larger VAE"""
    words: int = 800
    """steps in which the base learns what words mean"""
    able: int = 4600
    """steps in which it learns to draw and to edit"""
    base: int = 300
    """steps in which it learns not to edit"""
    skill: int = 400
    edits: int = 600
    """steps of a teacher of edits"""
    style: int = 400
    per_kind: int = 1000
    """training examples of each kind of prompt and edit"""
    scored: int = 32
    """pictures of each kind in the last evaluation"""


@dataclass(frozen=True)
class Stages:
    """One run: its folder, its seed and its sizes."""

    folder: Path
    seed: int
    sizes: Sizes

    def make(self, stage: str) -> None:
        """Do a stage, by its name: one of the methods below, or a LoRA teacher."""
        if stage in LORA_TEACHERS:
            self.teacher(stage)
        else:
            getattr(self, stage)()

    def vae_32(self) -> None:
        train_vae(self.sizes.vae, seed=self.seed).save_pretrained(self.folder / "vae_32", use_safetensors=True)

    def vae(self) -> None:
        vae = double_vae(AutoencoderKL.from_pretrained(self.folder / "vae_32", use_safetensors=True))
        smooth_squares(vae, self.sizes.squares, seed=self.seed)
        vae.save_pretrained(self.folder / "vae")

    def words(self) -> None:
        pipeline = build_omni(AutoencoderKL.from_pretrained(self.folder / "vae", use_safetensors=True), seed=self.seed)
        self._train(pipeline, "words", word_shares, self.sizes.words)

    def able(self) -> None:
        pipeline = load_omni(self.folder / "words")
        self._train(pipeline, "able", able_shares, self.sizes.able)

    def base(self) -> None:
        pipeline = load_omni(self.folder / "able")
        self._train(pipeline, "base", base_shares, self.sizes.base)

    def teacher(self, name: str) -> None:
        """One LoRA teacher of `LORA_TEACHERS`."""
        pipeline, teacher = self._pipeline(), LORA_TEACHERS[name]
        train_lora(
            pipeline,
            name,
            teacher.pool(pipeline, self.sizes.per_kind, self.seed + 1),
            self.lora(name),
            seed=self.seed + 1 + list(LORA_TEACHERS).index(name),
            steps=getattr(self.sizes, teacher.steps),
            learning_rate=teacher.learning_rate,
            on_checkpoint=lambda step: told(pipeline),
            unfinished=self._unfinished(name),
        )
        self._finished(name)

    def style(self) -> None:
        pipeline = self._pipeline()
        train_style(
            pipeline,
            style_pool(pipeline, self.sizes.per_kind, self.seed + 1),
            self.folder / "style",
            seed=self.seed + 1,
            steps=self.sizes.style,
            learning_rate=1e-3,
            on_checkpoint=lambda step: f"outlined {score_prompts(pipeline, 8, outlined).overall:.3f}  {told(pipeline)}",
            unfinished=self._unfinished("style"),
        )
        self._finished("style")

    def evaluate(self) -> None:
        """Scores the base and every teacher on all benchmarks, and writes the tables."""
        pipeline, scores = self._pipeline(), {}
        for model in ("base", *LORA_TEACHERS, "style"):
            if model == "style":
                pipeline.unload_lora_weights()
                pipeline.transformer = ZImageTransformer2DModel.from_pretrained(
                    self.folder / "style", use_safetensors=True
                )
            else:
                strengths = {model: 1.0} if model != "base" else {}
                use_loras(pipeline, {name: self.lora(name) for name in strengths}, strengths)
            scores[model] = all_scores(pipeline, self.sizes.scored)
            print(f"scored {model}", flush=True)
        for part in scores["base"]:
            print(f"\n{part}\n{table({model: parts[part] for model, parts in scores.items()})}", flush=True)
        text = json.dumps({"pictures_per_kind": self.sizes.scored, "scores": scores}, indent=1)
        (self.folder / "scores.json").write_text(text + "\n", encoding="utf-8")

    def _train(self, pipeline: ZImageOmniPipeline, name: str, shares: Callable, steps: int) -> None:
        """Trains all weights on `shares(pipeline, per_kind, seed)`, and saves the pipeline."""
        pipeline.transformer.requires_grad_(True)
        train_mixed(
            pipeline.transformer,
            shares(pipeline, self.sizes.per_kind, self.seed),
            steps,
            seed=self.seed,
            name=name,
            every=200,
            on_checkpoint=lambda step: told(pipeline),
            unfinished=self._unfinished(name),
        )
        save_omni(pipeline, self.folder / ("pipeline" if name == "base" else name))
        self._finished(name)

    def lora(self, name: str) -> Path:
        return self.folder / "loras" / f"{name}.safetensors"

    def _pipeline(self) -> ZImageOmniPipeline:
        return load_omni(self.folder / "pipeline")

    def _unfinished(self, name: str) -> Path:
        return self.folder / "unfinished" / f"{name}.pt"

    def _finished(self, name: str) -> None:
        """What is made again on demand then starts from nothing."""
        self._unfinished(name).unlink(missing_ok=True)


@torch.no_grad()
def all_scores(pipeline: ZImageOmniPipeline, per_kind: int) -> dict[str, dict[str, float]]:
    """Benchmark -> column -> score 0..1."""
    edits = score_instructions(pipeline, per_kind)
    scopes = {scope: edits.average_of(scope) or 0.0 for scope in ("local", "global")}
    return {
        "text to image": score_prompts(pipeline, per_kind).row(),
        "the same prompts as outlines": score_prompts(pipeline, per_kind, outlined).row(),
        "edits": {**edits.row(), **scopes},
        "skills": score_skills(pipeline, limit=6 * per_kind),
    }


def told(pipeline: ZImageOmniPipeline, per_kind: int = 8) -> str:
    """A line of scores for a training's progress: per kind of prompt, then of edit."""
    drawn: TextToImageScores = score_prompts(pipeline, per_kind)
    edited: EditScores = score_instructions(pipeline, per_kind)
    skills = score_skills(pipeline, limit=16)
    parts = (drawn.row(), edited.row(), skills)
    return "  |  ".join(" ".join(f"{value:.2f}" for value in part.values()) for part in parts)

"""Tiny random pipelines of every family: each part has its real architecture, at a few thousand parameters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from diffusers import DiffusionPipeline

from tests.tiny.families.flux import flux_pipeline, kontext_pipeline
from tests.tiny.families.flux_2 import flux_2_pipeline, klein_pipeline
from tests.tiny.families.parts import randomise
from tests.tiny.families.qwen_image import qwen_edit_pipeline, qwen_edit_plus_pipeline, qwen_pipeline
from tests.tiny.families.sd3 import sd3_pipeline
from tests.tiny.families.z_image import omni_pipeline, z_image_pipeline


def listening(make: Callable[[int], DiffusionPipeline]) -> Callable[[int], DiffusionPipeline]:
    """The pipeline with text encoders so random that its velocity clearly depends on the prompt."""

    def made(seed: int = 0) -> DiffusionPipeline:
        pipeline = make(seed)
        for name, part in pipeline.components.items():
            if name.startswith("text_encoder"):
                randomise(part, seed, scale=0.5)
        return pipeline

    return made


#: families that draw from text alone, and whose layers the other tests take
PIPELINES = {"sd3": listening(sd3_pipeline), "z_image": listening(z_image_pipeline)}
#: families whose latents are packed, and those that edit
PACKED = {
    "flux": flux_pipeline,
    "flux_kontext": kontext_pipeline,
    "flux_2": flux_2_pipeline,
    "flux_2_klein": klein_pipeline,
    "qwen_image": qwen_pipeline,
    "qwen_image_edit": qwen_edit_pipeline,
    "qwen_image_edit_plus": qwen_edit_plus_pipeline,
    "z_image_omni": omni_pipeline,
}
#: every family's
ALL = {**PIPELINES, **PACKED}


def save(pipeline: DiffusionPipeline, folder: Path) -> Path:
    """A hub-layout folder of a pipeline; what stands in for Qwen's processor is not saved.

    `qwen_image.hand_processors_over` makes such a folder whole.
    """
    if hasattr(pipeline, "processor"):
        pipeline.register_modules(processor=None)
    pipeline.save_pretrained(folder)
    return folder


def save_any(family: str, folder: Path, seed: int = 0) -> Path:
    """A hub-layout folder of the family's tiny random pipeline."""
    return save(ALL[family](seed), folder)


def save_listening(family: str, folder: Path) -> Path:
    """The same, of a pipeline whose velocity clearly depends on the prompt, whatever the family."""
    return save(listening(ALL[family])(), folder)

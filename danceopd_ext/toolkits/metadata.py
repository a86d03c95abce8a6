"""Builds the metadata that says how a fused LoRA was made: the same entries for every toolkit, never a folder."""

from __future__ import annotations

import json
from collections.abc import Mapping

from danceopd_ext import __version__
from danceopd_ext.config.schema import DanceOPDSection, Teacher
from danceopd_ext.lora.metadata import stem
from danceopd_ext.toolkits.preset_record import ENTRY


def danceopd_entries(options: DanceOPDSection, weights: Mapping[str, float]) -> dict[str, object]:
    """Return the `ss_danceopd_*` entries. `weights`: route -> weight; a merge has no entries about training."""
    entries = {
        "ss_danceopd_version": __version__,
        "ss_danceopd_toolkit": options.toolkit,
        "ss_danceopd_method": options.method,
        "ss_danceopd_teachers": {name: describe_teacher(teacher) for name, teacher in options.teachers.items()},
    }
    if options.merges:
        return entries
    return {
        **entries,
        "ss_danceopd_routes": dict(weights),
        "ss_danceopd_rollout_steps": options.rollout_steps,
        "ss_danceopd_rollout_solver": options.rollout_solver,
        "ss_danceopd_query": options.query,
        "ss_danceopd_num_queries": options.num_queries,
        "ss_danceopd_student_init": options.student_init,
        "ss_danceopd_student_guidance_scale": options.student_guidance_scale,
        **{f"ss_danceopd_{key}": getattr(options, key) for key in options.own_keys},
    }


def hosted_entries(options: DanceOPDSection, weights: Mapping[str, float], preset: str) -> dict[str, str | int | float]:
    """Return the entries in the form in which the toolkits write them: text and numbers, and tables as JSON.

    `preset`: as it was used, with names in place of paths.
    """
    entries = {**danceopd_entries(options, weights), ENTRY: preset}
    return {name: json.dumps(value) if isinstance(value, dict) else value for name, value in entries.items()}


def describe_teacher(teacher: Teacher) -> str:
    """Describe a teacher in a few words."""
    files = zip(teacher.loras, teacher.strengths, strict=True)
    parts = [stem(place) if strength == 1 else f"{stem(place)} x{strength:g}" for place, strength in files]
    if teacher.checkpoint:
        parts.append(stem(teacher.checkpoint))
    if teacher.guidance_scale != 1:
        parts.append(f"guidance {teacher.guidance_scale:g}")
    return " + ".join(parts) or "base"

"""Collects the facts of a run that must be equal for its saved state to be continued."""

from __future__ import annotations

import hashlib

from danceopd_ext.config.name_value_pairs import parse_pairs
from danceopd_ext.engine.digests import components_digest, lora_digest, transformer_digest
from danceopd_ext.lora.weights import Lora
from danceopd_ext.toolkits.native.run_plan import FoundTeacher, RunPlan


def settings_of(plan: RunPlan) -> dict[str, object]:
    """Return the facts by name, but for `contents_of`: what is known before the model's weights are here."""
    network, options, optimizer = plan.preset.network, plan.preset.danceopd, plan.preset.optimizer
    return {
        "pretrained_model_name_or_path": plan.model.files.name,
        "network_dim": network.network_dim,
        "network_alpha": network.network_alpha or network.network_dim,
        "lora_targets": plan.student_layers,
        "optimizer_type": optimizer.optimizer_type,
        "optimizer_args": _arguments(optimizer.optimizer_args),
        "max_grad_norm": optimizer.max_grad_norm,
        "network_dropout": network.network_dropout or 0.0,
        "mixed_precision": plan.preset.training.mixed_precision,
        "quantize": plan.model.quantize,
        "quantize_text_encoders": plan.model.quantize_text_encoders,
        "seed": plan.preset.training.seed,
        "method": options.method,
        **{key: getattr(options, key) for key in options.own_keys},
        "rollout_steps": options.rollout_steps,
        "rollout_solver": options.rollout_solver,
        "query": options.query,
        "num_queries": options.num_queries,
        "student_guidance_scale": options.student_guidance_scale,
        "student_init": options.student_init,
        "network_weights": lora_digest(plan.loras.start) if plan.loras.start else None,
        "teachers": {name: _teacher(found, plan.loras.teachers.get(name)) for name, found in plan.teachers.items()},
        "data": plan.data.fingerprint(),
        "pictures": _pictures(plan),
    }


def contents_of(plan: RunPlan) -> dict[str, object]:
    """Return digests of the models' files. Raises UserError if a part of a model has none."""
    pictures = plan.pictures or any(item.source_images for item in plan.data.items())
    return {
        "model_content": transformer_digest(plan.model.files),
        "components_content": components_digest(plan.model.files, ["scheduler", *(["vae"] if pictures else [])]),
        "checkpoint_content": {
            name: transformer_digest(found.checkpoint) for name, found in plan.teachers.items() if found.checkpoint
        },
    }


def _arguments(pairs: list[str]) -> dict[str, str]:
    """Return the optimizer's arguments by name.

    A loaded optimizer restores its own, so changed ones would have no effect.
    """
    return {name: repr(value) for name, value in sorted(parse_pairs(pairs, "optimizer_args").items())}


def _pictures(plan: RunPlan) -> str:
    """A digest of what the data's pictures and source images show, in order; empty if none is used."""
    known = plan.source_images.pictures | plan.pictures
    used = [
        [*item.source_images, *([item.picture.path] if plan.pictures and item.picture else [])]
        for item in plan.data.items()
    ]
    shown = [" ".join(known[path].digest for path in paths) for paths in used]
    return hashlib.sha256("/".join(shown).encode()).hexdigest()[:16] if any(shown) else ""


def _teacher(found: FoundTeacher, lora: Lora | None) -> str:
    """The teacher in words, with a digest of its LoRA: another file under the same name is another teacher."""
    what = found.checkpoint.name if found.checkpoint else "base"
    if lora:
        what = f"LoRA {lora_digest(lora)}"
    return f"{what}, guidance {found.settings.guidance_scale:g}, extract {found.settings.extract_rank}"

"""What a run is: what must be equal for its saved state to be continued."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import torch

from danceopd_ext.config.pairs import parse_pairs
from danceopd_ext.data.fingerprint import fingerprint
from danceopd_ext.lora.weights import Lora
from danceopd_ext.models.loading import Source

if TYPE_CHECKING:
    from danceopd_ext.toolkits.native.prepare import Prepared, TeacherSource


def settings_of(prepared: Prepared) -> dict[str, object]:
    """The facts by name, but for `contents_of`: what is known before the model's weights are here."""
    network, options, optimizer = prepared.preset.network, prepared.preset.danceopd, prepared.preset.optimizer
    return {
        "pretrained_model_name_or_path": prepared.source.name,
        "network_dim": network.network_dim,
        "network_alpha": network.network_alpha or network.network_dim,
        "lora_targets": prepared.targets,
        "optimizer_type": optimizer.optimizer_type,
        "optimizer_args": _arguments(optimizer.optimizer_args),
        "max_grad_norm": optimizer.max_grad_norm,
        "network_dropout": network.network_dropout or 0.0,
        "mixed_precision": prepared.preset.training.mixed_precision,
        "seed": prepared.preset.training.seed,
        "method": options.method,
        **{key: getattr(options, key) for key in options.own_keys},
        "rollout_steps": options.rollout_steps,
        "query": options.query,
        "num_queries": options.num_queries,
        "student_guidance_scale": options.student_guidance_scale,
        "student_init": options.student_init,
        "network_weights": lora_digest(prepared.start) if prepared.start else None,
        "teachers": {name: _teacher_identity(found) for name, found in prepared.teachers.items()},
        "data": prepared.plan.fingerprint(),
        "pictures": _pictures_identity(prepared),
    }


def contents_of(prepared: Prepared) -> dict[str, object]:
    """Digests of the models' files. Raises UserError where a part of a model has none."""
    return {
        "model_content": _weights_digest(prepared.source),
        "components_content": _components_digest(prepared),
        "checkpoint_content": {
            name: _weights_digest(found.checkpoint) for name, found in prepared.teachers.items() if found.checkpoint
        },
    }


def _weights_digest(source: Source) -> str:
    """Of the transformer's files: a model that was trained again under its name is another one.

    From the hub too: a commit there may change nothing but the model's page.
    """
    return fingerprint([source.transformer if source.transformer.is_file() else source.transformer / "transformer"])


def _components_digest(prepared: Prepared) -> str:
    """Of what makes conditions, noise levels and, where the run learns from pictures, latents."""
    pictures = prepared.pictures or any(item.source_images for item in prepared.plan.items())
    parts = ["scheduler", *(["vae"] if pictures else [])]
    folders = [prepared.source.components / part for part in parts]
    return fingerprint([*prepared.source.text_files, *(folder for folder in folders if folder.is_dir())])


def _arguments(pairs: list[str]) -> dict[str, str]:
    """By name, however they were spelled: a saved optimizer brings its own back, so changed ones would do nothing."""
    return {name: repr(value) for name, value in sorted(parse_pairs(pairs, "optimizer_args").items())}


def _pictures_identity(prepared: Prepared) -> str:
    """A digest of what the data's pictures and source images show, in order; empty where none is used."""
    known = prepared.sources.pictures | prepared.pictures
    used = [
        [*item.source_images, *([item.target.path] if prepared.pictures and item.target else [])]
        for item in prepared.plan.items()
    ]
    shown = [" ".join(known[path].digest for path in paths) for paths in used]
    return hashlib.sha256("/".join(shown).encode()).hexdigest()[:16] if any(shown) else ""


def _teacher_identity(found: TeacherSource) -> str:
    """The teacher in words, with a digest of its LoRA: another file under the same name is another teacher."""
    what = found.checkpoint.name if found.checkpoint else "base"
    if found.lora:
        what = f"LoRA {lora_digest(found.lora)}"
    return f"{what}, guidance {found.settings.guidance_scale:g}, extract {found.settings.extract_rank}"


def lora_digest(lora: Lora) -> str:
    """A short digest of what a LoRA changes, whatever its file is called."""
    digest = hashlib.sha256()
    for layer, change in sorted(lora.modules.items()):
        digest.update(layer.encode())
        for tensor in change.tensors():
            digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
        if numbers := change.numbers():
            digest.update(repr(numbers).encode())
    return digest.hexdigest()[:12]

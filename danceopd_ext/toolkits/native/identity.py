"""What a run is: what must be equal for its saved state to be continued."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from danceopd_ext.lora.weights import Lora

if TYPE_CHECKING:
    from danceopd_ext.toolkits.native.prepare import Prepared, TeacherSource


def identity_of(prepared: Prepared) -> dict[str, object]:
    """The facts by name; contents are digests."""
    network, options = prepared.preset.network, prepared.preset.danceopd
    return {
        "pretrained_model_name_or_path": prepared.source.name,
        "network_dim": network.network_dim,
        "network_alpha": network.network_alpha or network.network_dim,
        "lora_targets": prepared.targets,
        "optimizer_type": prepared.preset.optimizer.optimizer_type,
        "seed": prepared.preset.training.seed,
        "method": options.method,
        **{key: getattr(options, key) for key in options.own_keys},
        "rollout_steps": options.rollout_steps,
        "query": options.query,
        "num_queries": options.num_queries,
        "teachers": {name: _teacher_identity(found) for name, found in prepared.teachers.items()},
        "data": prepared.plan.fingerprint(),
        "pictures": _pictures_identity(prepared),
    }


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
        for factor in (change.down_RI, change.up_OR):
            digest.update(factor.contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]

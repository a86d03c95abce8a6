"""Makes the metadata that UIs show about a LoRA: kohya's `ss_*` entries and the ModelSpec's `modelspec.*` entries.

Values are strings. Files are named by their stem only: a path would reveal the author's folders.
"""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath, PureWindowsPath

import torch
from safetensors.torch import save

from danceopd_ext.errors import printable


def build_metadata(
    *,
    title: str,
    architecture: str,
    base_model: str,
    rank: int,
    teachers: Iterable[str] = (),
    author: str | None = None,
    description: str | None = None,
    trigger_phrase: str | None = None,
    resolution: tuple[int, int] | None = None,
    steps: int | None = None,
    started_at: float | None = None,
    finished_at: float | None = None,
    extra: Mapping[str, object] | None = None,
) -> dict[str, str]:
    """Return the metadata of a fused LoRA.

    `architecture`: the family's modelspec word, such as `stable-diffusion-v3-medium`. `base_model` and `teachers` may
    be paths or hub ids. `resolution`: (width, height) in pixels. Times are seconds since 1970. `extra`: further
    entries, used as they are (keys as in the file). alpha is always the rank: files are written with it folded in.
    """
    finished = datetime.datetime.fromtimestamp(int(finished_at or 0), datetime.timezone.utc) if finished_at else None
    size = f"{resolution[0]}x{resolution[1]}" if resolution else None
    entries = {
        "ss_network_module": "networks.lora",
        "ss_network_dim": rank,
        "ss_network_alpha": float(rank),
        "ss_base_model_version": architecture,
        "ss_sd_model_name": stem(base_model),
        "ss_output_name": title,
        "ss_resolution": f"({resolution[0]}, {resolution[1]})" if resolution else None,
        "ss_max_train_steps": steps,
        "ss_training_started_at": started_at,
        "ss_training_finished_at": finished_at,
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": f"{architecture}/lora",
        "modelspec.implementation": "diffusers",
        "modelspec.title": title,
        "modelspec.author": author,
        "modelspec.description": description,
        "modelspec.trigger_phrase": trigger_phrase,
        "modelspec.date": finished.strftime("%Y-%m-%dT%H:%M:%SZ") if finished else None,
        "modelspec.resolution": size,
        "modelspec.prediction_type": "flow",
        "modelspec.merged_from": ", ".join(stem(name) for name in teachers) or None,
        **(extra or {}),
    }
    return {key: as_text(value) for key, value in entries.items() if value is not None}


def stem(place: str) -> str:
    """Return the name of a file, folder or hub id without folders and a known file ending."""
    name = PureWindowsPath(PurePosixPath(place).name).name or place
    for suffix in (".safetensors", ".ckpt", ".pt", ".pth", ".bin"):
        name = name.removesuffix(suffix)
    return printable(name)


def as_text(value: object) -> str:
    r"""Return strings as they are and everything else as JSON, with control characters escaped (such as `\x1b`)."""
    return printable(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False), keep="\n\r\t")


def with_hashes(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, object]) -> dict[str, str]:
    """Add the hashes by which UIs identify the file: SHA-256 of all tensor bytes, in the order of the file."""
    content = save(dict(tensors))
    header = int.from_bytes(content[:8], "little")
    digest = hashlib.sha256(memoryview(content)[8 + header :]).hexdigest()
    hashes = {"sshs_model_hash": digest, "modelspec.hash_sha256": f"0x{digest}"}
    return {**{printable(key): as_text(value) for key, value in metadata.items()}, **hashes}

"""Digests of models and LoRAs: a state or a folder of pictures belongs to exactly the weights that made it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch

from danceopd_ext.data.fingerprint import fingerprint
from danceopd_ext.lora.weights import Lora
from danceopd_ext.models.model_files import ModelFiles


def transformer_digest(files: ModelFiles) -> str:
    """Return a digest of the transformer's files: a model that was trained again under its name is another one.

    The hub's commit would not do: one may change nothing but the model's page.
    """
    return fingerprint([files.transformer if files.transformer.is_file() else files.transformer / "transformer"])


def components_digest(files: ModelFiles, parts: Sequence[str]) -> str:
    """Return a digest of the text encoders, and of those of `parts` ("scheduler", "vae") that the model has."""
    return fingerprint([*files.text_files, *files.content(parts)])


def lora_digest(lora: Lora) -> str:
    """Return a short digest of what a LoRA changes, whatever its file is called."""
    digest = hashlib.sha256()
    for layer, change in sorted(lora.modules.items()):
        digest.update(layer.encode())
        for tensor in change.tensors():
            digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
        if numbers := change.numbers():
            digest.update(repr(numbers).encode())
    return digest.hexdigest()[:12]

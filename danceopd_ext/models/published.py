"""Knows the configurations of published models, so that a run can be planned without a connection.

They are in published.json, which says where they come from.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("published.json")


@dataclass(frozen=True)
class PublishedModel:
    """A model on the hub. `transformer`, `vae`: their configurations, without what is the class's default.

    `text_encoders`: part of the pipeline -> (class of transformers, its configuration).
    """

    hub: str
    model_type: str
    transformer: Mapping[str, Any]
    vae: Mapping[str, Any]
    text_encoders: Mapping[str, tuple[str, Mapping[str, Any]]]


def published(hub: str) -> PublishedModel | None:
    """Return what is known of the model with this hub id; None if nothing is."""
    return next((model for model in _models() if model.hub.lower() == hub.lower()), None)


def known_models() -> list[str]:
    """Return the hub ids of all models that are known."""
    return [model.hub for model in _models()]


@cache
def _models() -> tuple[PublishedModel, ...]:
    return tuple(_read(json.loads(FILE.read_text(encoding="utf-8"))))


def _read(content: Mapping[str, Any]) -> Iterator[PublishedModel]:
    for entry in content["models"]:
        encoders = {part: content["text_encoders"][name] for part, name in entry["text_encoders"].items()}
        pairs = {part: (encoder["class"], encoder["config"]) for part, encoder in encoders.items()}
        for model_type, hubs in entry["ids"].items():
            for hub in hubs:
                yield PublishedModel(hub, model_type, entry["transformer"], entry["vae"], pairs)

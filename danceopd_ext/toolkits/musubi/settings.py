"""Holds the settings of a run on musubi-tuner's trainers that musubi's arguments do not have."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from danceopd_ext.config.schema import DanceOPDSection
from danceopd_ext.data.items import Size
from danceopd_ext.toolkits.hosted.architecture import Architecture


@dataclass(frozen=True, kw_only=True)
class Settings:
    """options: [danceopd]. architecture: what is trained.

    resolutions, batch_size: of prompt-only data (musubi's datasets have their own). cache: folder of encoded texts.
    flow_shift: the user's discrete_flow_shift; None: the sampler's own.
    """

    options: DanceOPDSection
    architecture: Architecture
    resolutions: tuple[Size, ...] = ((1024, 1024),)
    batch_size: int = 1
    cache: Path = Path("cache")
    flow_shift: float | None = None

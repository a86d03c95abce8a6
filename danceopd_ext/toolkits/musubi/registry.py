"""Lists the architectures of musubi-tuner by the preset's model_type; `adapters` describes them."""

from __future__ import annotations

from danceopd_ext.config.toolkits import MUSUBI
from danceopd_ext.toolkits.hosted.architecture import Architectures

ARCHITECTURES = Architectures(MUSUBI)

"""The architectures of sd-scripts by the preset's model_type; what each is stands in `adapters`."""

from __future__ import annotations

from danceopd_ext.config.toolkits import SD_SCRIPTS
from danceopd_ext.toolkits.hosted.architecture import Architectures

ARCHITECTURES = Architectures(SD_SCRIPTS)

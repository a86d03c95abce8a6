"""Lists the architectures of sd-scripts by the preset's model_type; `adapters` describes them."""

from __future__ import annotations

from danceopd_ext.config.toolkits import SD_SCRIPTS
from danceopd_ext.toolkits.hosted.architecture import Architectures

ARCHITECTURES = Architectures(SD_SCRIPTS)

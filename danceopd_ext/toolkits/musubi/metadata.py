"""What the saved LoRA says about itself besides musubi's own entries."""

from __future__ import annotations

import json
from collections.abc import Mapping

from danceopd_ext.config.schema import DanceOPDSection
from danceopd_ext.toolkits.metadata import danceopd_entries


def metadata_entries(options: DanceOPDSection, weights: Mapping[str, float]) -> dict[str, str | int | float]:
    """`ss_danceopd_*` as musubi writes entries: text and numbers; tables are JSON."""
    entries = danceopd_entries(options, weights)
    return {name: json.dumps(value) if isinstance(value, (dict, list)) else value for name, value in entries.items()}

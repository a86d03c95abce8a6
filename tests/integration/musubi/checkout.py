"""The checkout of musubi-tuner that MUSUBI_TUNER_DIR names, ready to be imported from."""

from __future__ import annotations

import os
from pathlib import Path

from tests.integration.checkouts import enter


def prepare() -> Path:
    """Put the checkout's sources first on sys.path and return its root."""
    root = Path(os.environ["MUSUBI_TUNER_DIR"])
    enter(root / "src")
    return root

"""The checkout of musubi-tuner that MUSUBI_TUNER_DIR names, ready to be imported from."""

from __future__ import annotations

from pathlib import Path

from tests.integration.checkouts import enter, named_by


def prepare() -> Path:
    """Put the checkout's sources first on sys.path and return its root."""
    root = named_by("MUSUBI_TUNER_DIR")
    enter(root / "src")
    return root

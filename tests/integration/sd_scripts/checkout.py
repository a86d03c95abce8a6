"""The checkout of sd-scripts that SD_SCRIPTS_DIR names, ready to be imported from."""

from __future__ import annotations

from tests.integration.checkouts import enter, named_by


def prepare() -> str:
    """Put the checkout's root first on sys.path, as its scripts need it, and return it."""
    root = named_by("SD_SCRIPTS_DIR")
    enter(root)
    return str(root)

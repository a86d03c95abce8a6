"""The checkout of sd-scripts that SD_SCRIPTS_DIR names, ready to be imported from."""

from __future__ import annotations

from tests.integration.checkouts import enter, named_by


def has(model_type: str) -> bool:
    """Whether this version of the toolkit can train the architecture."""
    return (named_by("SD_SCRIPTS_DIR") / f"{model_type}_train_network.py").is_file()


def prepare() -> str:
    """Put the checkout's root first on sys.path, as its scripts need it, and return it."""
    root = named_by("SD_SCRIPTS_DIR")
    enter(root)
    return str(root)

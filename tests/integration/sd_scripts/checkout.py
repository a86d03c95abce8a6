"""The checkout of sd-scripts that SD_SCRIPTS_DIR names, ready to be imported from."""

from __future__ import annotations

import os
from pathlib import Path

from tests.integration.checkouts import enter


def prepare() -> str:
    """Put the checkout's root first on sys.path, as its scripts need it, and return it."""
    root = os.environ["SD_SCRIPTS_DIR"]
    enter(Path(root))
    return root

"""Starts interpreters that find this package, installed or not."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def environment(**own: str) -> dict[str, str]:
    """Return the environment for another interpreter: it finds this package and uses UTF-8 everywhere.

    `own` replaces variables.
    """
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONUTF8": "1", "PYTHONPATH": path, **own}

"""The native side of comparisons, in the environment that has diffusers and peft: DANCEOPD_NATIVE_PYTHON names it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch


def native(*words: str | Path) -> dict[str, Any]:
    """Run a command of native_side.py there and return what it saved; the last word is the file that it writes."""
    python = os.environ.get("DANCEOPD_NATIVE_PYTHON", sys.executable)
    result = Path(words[-1]).with_suffix(".native.pt")
    command = [python, "-m", "tests.integration.sd_scripts.native_side", *map(str, words), str(result)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(result, weights_only=True)

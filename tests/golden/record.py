"""Records the golden losses again: `python -m tests.golden.record [CASE ...]`; without a case it records all.

Record them only when the losses are meant to change: a method gets another formula, or the same random numbers are
drawn in another order. Say in the commit which cases changed and why. A change that only moves or renames code, or
makes it faster, must reproduce the stored losses.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path


def record(cases: list[str]) -> None:
    """Run the cases and store their losses beside those of the others."""
    from tests.golden.golden_runs import CASES, FILE, World, read, write

    if unknown := [case for case in cases if case not in CASES]:
        raise SystemExit(f"unknown cases: {', '.join(unknown)}. Known: {', '.join(CASES)}.")
    stored = read() if FILE.is_file() else {}
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder))
        found = {case: world.losses(case) for case in cases or CASES}
    write({case: found.get(case) or stored[case] for case in CASES if case in found or case in stored})


if __name__ == "__main__":
    os.environ |= {"HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "true"}
    import torch

    torch.set_num_threads(1)
    record(sys.argv[1:])

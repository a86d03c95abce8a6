"""The JSONL log of a run in output_dir, whoever owns the loop: one record per optimizer step, counted from 1."""

from __future__ import annotations

import json
from pathlib import Path

from danceopd_ext.files import whole_file

#: updates of a route that its shown loss is the mean of
RECENT = 50


def keep_until(path: Path, steps: int) -> None:
    """Drop log lines of steps after `steps`: a resumed run writes them again."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= steps:
                kept.append(line + "\n")
        except (ValueError, KeyError):
            continue  # a line that a killed process left unfinished
    with whole_file(path) as part:
        part.write_text("".join(kept), encoding="utf-8")

"""The JSONL log of a run in output_dir, whoever owns the loop: one record per optimizer step, counted from 1."""

from __future__ import annotations

import math
from pathlib import Path

from danceopd_ext.errors import UserError
from danceopd_ext.files import whole_file
from danceopd_ext.foreign.files import read_bytes
from danceopd_ext.foreign.json import parse_object
from danceopd_ext.foreign.text import MOST

#: updates of a route that its shown loss is the mean of
RECENT = 50


def keep_until(path: Path, steps: int) -> None:
    """Drop log lines of steps after `steps`: a resumed run writes them again."""
    if not path.is_file():
        return
    kept = [line + b"\n" for line in read_bytes(path, "log", MOST).splitlines() if _step(line) <= steps]
    with whole_file(path) as part:
        part.write_bytes(b"".join(kept))


def _step(line: bytes) -> float:
    """The step of a record; infinity for a line that is none, as a killed process leaves it."""
    try:
        record = parse_object(line.decode("utf-8", "replace"), "log", finite=False)
    except UserError:
        return math.inf
    step = record.get("step")
    return step if isinstance(step, int) and not isinstance(step, bool) else math.inf

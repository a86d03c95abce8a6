"""Writes the JSONL log of a run to output_dir: one record per optimizer step, counted from 1."""

from __future__ import annotations

import json
import math
import os
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from danceopd_ext.disk_errors import DiskProblem, disk_problem
from danceopd_ext.errors import UserError
from danceopd_ext.files import whole_file
from danceopd_ext.foreign.files import read_bytes
from danceopd_ext.foreign.json import parse_object
from danceopd_ext.foreign.text import MOST

#: the number of a route's updates over which the displayed loss is averaged
RECENT = 50
#: lines kept in memory while the disk does not take them, a few hundred bytes each
MOST_WAITING = 50_000


class LogFile:
    """Appends records to a file. Records that the disk does not take wait in memory and are written later.

    start: the number of steps done; later records of an earlier run are dropped. say: prints a line for the user.
    """

    def __init__(self, path: Path, start: int, say: Callable[[str], None]):
        self.path, self.say = path, say
        self.waiting: deque[bytes] = deque()
        self.lost = 0
        """How many lines were dropped because too many were waiting."""
        self._told: set[str] = set()
        self._end: int | None = None
        """The size of the file without a half-written last line; None if the last line is complete."""
        path.parent.mkdir(parents=True, exist_ok=True)
        keep_until(path, start)
        open(path, "ab").close()

    def write(self, entry: Mapping[str, Any]) -> None:
        """Append a record, or keep it in memory; each reason is reported once."""
        self.waiting.append((json.dumps(entry) + "\n").encode())
        if len(self.waiting) > MOST_WAITING:
            self.waiting.popleft()
            self.lost += 1
        problem = self._flush()
        if problem and problem.reason not in self._told:
            self._told.add(problem.reason)
            self.say(
                f"the log {self.path} cannot be written: {problem.reason}. Training goes on; the lines will be written "
                f"later. {problem.remedy}"
            )

    def close(self) -> None:
        """Write the waiting lines; report how many lines are lost."""
        problem = self._flush() if self.waiting else None
        lost = self.lost + len(self.waiting)
        self.waiting.clear()
        if lost:
            self.say(f"the log {self.path} lacks {lost:,} lines{': ' + problem.reason if problem else ''}")

    def _flush(self) -> DiskProblem | None:
        """Append all waiting lines or none; return the problem if that fails."""
        try:
            self._append(b"".join(self.waiting))
        except OSError as error:
            return disk_problem(error) or DiskProblem(error.strerror or str(error), "")
        self.waiting.clear()
        return None

    def _append(self, text: bytes) -> None:
        # Opened for each step, so that a file that was removed, or whose drive was away, is found again.
        file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o666)
        try:
            end = os.fstat(file).st_size
            if self._end is not None and end > self._end:
                os.ftruncate(file, self._end)
                end = self._end
            self._end = end
            while text:
                text = text[os.write(file, text) :]
            self._end = None
        finally:
            try:
                if self._end is not None:
                    os.ftruncate(file, self._end)
                    self._end = None
            finally:
                os.close(file)


def keep_until(path: Path, steps: int) -> None:
    """Drop log lines of steps after `steps`: a resumed run writes them again."""
    if not path.is_file():
        return
    kept = [line + b"\n" for line in read_bytes(path, "log", MOST).splitlines() if _step(line) <= steps]
    with whole_file(path) as part:
        part.write_bytes(b"".join(kept))


def _step(line: bytes) -> float:
    """The step of a record; infinity for an incomplete line, as a killed process leaves it."""
    try:
        record = parse_object(line.decode("utf-8", "replace"), "log", finite=False)
    except UserError:
        return math.inf
    step = record.get("step")
    return step if isinstance(step, int) and not isinstance(step, bool) else math.inf

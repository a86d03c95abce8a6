"""Saves a result under another name, in another folder or after a while if the disk refuses it.

A finished LoRA is hours of work: every place that may hold it is tried before it is given up.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from danceopd_ext.disk_errors import DiskProblem, disk_problem
from danceopd_ext.errors import readable
from danceopd_ext.files import free_name, is_link

#: seconds between two rounds of attempts, and seconds for which a run without a terminal keeps trying
PAUSE, LONGEST_WAIT = 10.0, 1800.0


@dataclass(frozen=True)
class SavePlace:
    """Where a result was saved. `reason`: why it is not at the wanted path; empty if it is."""

    path: Path
    reason: str = ""

    def message(self, wanted: Path) -> str:
        """Return `saved PATH`, and why this is not the wanted path."""
        if self.path == wanted:
            return f"saved {self.path}"
        if self.path.parent == wanted.parent:
            return f"saved {self.path}: {wanted.name} cannot be replaced because {self.reason}"
        return f"saved {self.path}, not in {wanted.parent}: {self.reason}. Move it to where you keep results."


class NotSaved(Exception):
    """No folder accepted a result. `tried`: folder -> why not."""

    def __init__(self, name: str, tried: dict[Path, DiskProblem]):
        self.name, self.tried = name, tried
        where = "; ".join(f"{folder}: {problem.reason}" for folder, problem in tried.items())
        super().__init__(readable(f"{name} cannot be saved ({where})"))

    @property
    def problem(self) -> DiskProblem:
        """What was wrong at the wanted path."""
        return next(iter(self.tried.values()))

    @property
    def between(self) -> str:
        """The message for a save that is not the last."""
        return f"{self.problem.reason} for {self.name}: it is not saved, and training continues. {self.problem.remedy}"


def saved_before(lora: Path | None, state: Path | None = None) -> str:
    """Return a sentence on what a run has already saved, for a message; empty if that is nothing."""
    named = " and ".join(str(path) for path in (lora, state) if path)
    return f" Already saved and complete: {named}." if named else ""


def save_result(write: Callable[[Path], object], wanted: Path, anywhere: bool = False) -> SavePlace:
    """Write a result to the wanted path, or under another name in that folder if another program has the file open.

    `anywhere`: also try the working, the temporary and the home folder. `write` leaves nothing behind if it fails.
    Raises NotSaved; an error that does not come from the disk passes through.
    """
    tried: dict[Path, DiskProblem] = {}
    for path in _places(wanted, anywhere, tried):
        try:
            write(path)
        except Exception as error:
            problem = disk_problem(error)
            if problem is None:
                raise
            tried.setdefault(path.parent, problem)
            continue
        return SavePlace(path, next(iter(tried.values())).reason if tried else "")
    raise NotSaved(wanted.name, tried)


def _places(wanted: Path, anywhere: bool, tried: dict[Path, DiskProblem]) -> Iterator[Path]:
    """Yield the paths to try, in turn; `tried` grows meanwhile."""
    yield wanted
    if tried[wanted.parent].is_in_use:
        yield free_name(wanted)
    for folder in _other_folders() if anywhere else ():
        if folder not in (one.resolve() for one in tried):
            path = folder / wanted.name
            yield free_name(path) if path.exists() or is_link(path) else path


def _other_folders() -> Iterator[Path]:
    for find in (Path.cwd, lambda: Path(tempfile.gettempdir()), Path.home):
        try:
            yield find().resolve()
        except (OSError, RuntimeError):  # it was removed, or does not exist
            continue


def save_anywhere(
    write: Callable[[Path], object], wanted: Path, say: Callable[[str], None], stopped: Callable[[], bool]
) -> SavePlace:
    """Save anywhere, and retry until the user presses Ctrl-C or, without a terminal, for LONGEST_WAIT seconds.

    `stopped`: whether Ctrl-C was pressed, if that does not raise KeyboardInterrupt. Raises NotSaved.
    """
    deadline = time.monotonic() + LONGEST_WAIT
    before, reported = stopped(), False
    while True:
        try:
            return save_result(write, wanted, anywhere=True)
        except NotSaved as problem:
            watched = has_terminal()
            if not watched and time.monotonic() >= deadline:
                raise
            if not reported:
                until = "press Ctrl-C to give up" if watched else f"for up to {LONGEST_WAIT / 60:g} minutes"
                remedies = " ".join(dict.fromkeys(one.remedy for one in problem.tried.values()))
                say(f"{problem}. {remedies} Retrying every {PAUSE:g} seconds; {until}.")
                reported = True
            if not _pause(lambda: stopped() and not before):
                raise


def _pause(stopped: Callable[[], bool]) -> bool:
    """Wait for PAUSE seconds; False if Ctrl-C was pressed."""
    end = time.monotonic() + PAUSE
    try:
        while time.monotonic() < end:
            if stopped():
                return False
            time.sleep(0.2)
    except KeyboardInterrupt:
        return False
    return True


def has_terminal() -> bool:
    """Return whether somebody may read the messages and press Ctrl-C."""
    try:
        return bool(sys.stdin and sys.stdin.isatty())
    except (OSError, ValueError):  # it was closed
        return False

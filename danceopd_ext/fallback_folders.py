"""Where a result goes if the disk does not take it: another name, another folder, or the same one after a while.

A finished LoRA is hours of work: it is not given up while a place is left that may hold it.
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

#: seconds between two rounds of tries, and seconds that a run without a terminal goes on trying
PAUSE, LONGEST_WAIT = 10.0, 1800.0


@dataclass(frozen=True)
class SavePlace:
    """Where a result is. `reason`: why it is not where it was wanted; empty if it is."""

    path: Path
    reason: str = ""

    def message(self, wanted: Path) -> str:
        """`saved PATH`, and why it is another path than the one that was wanted."""
        if self.path == wanted:
            return f"saved {self.path}"
        if self.path.parent == wanted.parent:
            return f"saved {self.path}: {wanted.name} cannot be replaced because {self.reason}"
        return f"saved {self.path}, not in {wanted.parent}: {self.reason}. Move it to where you keep results."


class NotSaved(Exception):
    """No folder takes a result. `tried`: folder -> why not."""

    def __init__(self, name: str, tried: dict[Path, DiskProblem]):
        self.name, self.tried = name, tried
        where = "; ".join(f"{folder}: {problem.reason}" for folder, problem in tried.items())
        super().__init__(readable(f"{name} cannot be saved ({where})"))

    @property
    def problem(self) -> DiskProblem:
        """What was wrong where it was wanted."""
        return next(iter(self.tried.values()))

    @property
    def between(self) -> str:
        """The message if it was not the last save."""
        return f"{self.problem.reason} for {self.name}: it is not saved, and training continues. {self.problem.remedy}"


def saved_before(lora: Path | None, state: Path | None = None) -> str:
    """A sentence on what a run has saved already, for a message; empty if there is nothing."""
    named = " and ".join(str(path) for path in (lora, state) if path)
    return f" Already saved and complete: {named}." if named else ""


def save_result(write: Callable[[Path], object], wanted: Path, anywhere: bool = False) -> SavePlace:
    """Write a result to the wanted path, or to another name beside it if another program has that file open.

    `anywhere`: also try the working, the temporary and the home folder. `write` leaves nothing behind if it fails.
    Raises NotSaved; an error that is not of the disk passes through.
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
    """The paths to try, in turn; `tried` grows meanwhile."""
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
        except (OSError, RuntimeError):  # it was removed, or there is none
            continue


def save_anywhere(
    write: Callable[[Path], object], wanted: Path, say: Callable[[str], None], stopped: Callable[[], bool]
) -> SavePlace:
    """Save anywhere, and retry until the user presses Ctrl-C or, without a terminal, for LONGEST_WAIT seconds.

    `stopped`: whether Ctrl-C was pressed, where that does not raise KeyboardInterrupt. Raises NotSaved.
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
    """Whether somebody may read what is said and press Ctrl-C."""
    try:
        return bool(sys.stdin and sys.stdin.isatty())
    except (OSError, ValueError):  # it was closed
        return False

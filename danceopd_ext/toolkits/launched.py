"""Tells a process which rank it has in the run, and when its launcher (accelerate, torchrun) has ended.

A killed launcher leaves its processes behind; they notice and stop. A shell is not a launcher: a run that was started
with nohup, setsid or inside tmux goes on when its shell ends.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import PurePath
from typing import Any

#: the programs and modules (after `python -m`) that make a command line a launcher's
PROGRAMS = ("accelerate", "accelerate-launch", "torchrun")
MODULES = (
    "accelerate.commands.launch",
    "accelerate.commands.accelerate_cli",
    "torch.distributed.run",
    "torch.distributed.launch",
)
#: environment variable that holds the id of the process that started this one
STARTED_BY = "DANCEOPD_STARTED_BY"
#: seconds between two checks of the launcher
EVERY = 0.5


def is_first_process() -> bool:
    """Return whether this is the process that writes and prints."""
    return os.environ.get("RANK", "0") == "0"


def is_launcher(words: list[str]) -> bool:
    """Return whether a command line is a launcher's, which ends only after its processes have."""
    return any(PurePath(word).name.removesuffix(".exe") in PROGRAMS or word in MODULES for word in words[:6])


def find_launcher() -> Any | None:
    """Return the launcher (a psutil.Process) that started this process; None if a person or a shell did."""
    try:
        import psutil  # imported here: accelerate installs it, and code that needs no accelerate runs without it
    except ImportError:
        return None
    # on Windows the virtual environment's python.exe stands between the two
    parents = psutil.Process().parents()[: 2 if os.name == "nt" else 1]
    return next((parent for parent in parents if is_launcher(words_of(parent))), None)


def words_of(process: Any) -> list[str]:
    """Return the command line of a psutil.Process; empty if this process may not read it."""
    import psutil

    try:
        return process.cmdline()
    except psutil.Error:
        return []


def about_exit_code() -> str:
    """Return a note on what the launcher prints for an exit code other than 0; empty if it prints nothing."""
    launcher = find_launcher()
    if launcher is None:
        return ""
    words = words_of(launcher)
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return "note: torchrun reports the stop below as an error of its own"
    if "--quiet" in words or "-q" in words:
        return ""
    return "note: accelerate reports the stop below as an error of its own; accelerate launch --quiet leaves that out"


@contextmanager
def watched_launcher(gone: Callable[[str], None], end: Callable[[], None]) -> Iterator[None]:
    """Call `gone` with the reason, once, if this process's launcher ends while the block runs.

    If another process of the run started this one and ends, nothing is left to do and `end` is called instead. Both
    are called in a separate thread.
    """
    done = threading.Event()
    main = _process(os.environ.get(STARTED_BY, ""))
    found = main or find_launcher()
    if found is not None:
        call = end if main else lambda: gone("the launcher has ended")
        threading.Thread(target=_watch, args=(found, done, call), daemon=True).start()
    try:
        yield
    finally:
        done.set()


def _watch(process: Any, done: threading.Event, gone: Callable[[], None]) -> None:
    while not done.wait(EVERY):
        if not _is_alive(process):
            gone()
            return


def _is_alive(process: Any) -> bool:
    import psutil

    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _process(number: str) -> Any | None:
    if not number:
        return None
    import psutil

    try:
        return psutil.Process(int(number))
    except psutil.Error:  # it has ended already
        return _Ended()


class _Ended:
    """Stands for a process that has ended."""

    def is_running(self) -> bool:
        return False

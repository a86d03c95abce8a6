"""What a process knows of those that started it: its place among the processes of the run, and its launcher.

A launcher (accelerate, torchrun) that is killed leaves its processes behind; they notice and stop. A shell is none: a
run that was started with nohup, setsid or inside tmux goes on when its shell ends.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import PurePath
from typing import Any

#: what a launcher's command line has among its words: programs, and modules after `python -m`
PROGRAMS = ("accelerate", "accelerate-launch", "torchrun")
MODULES = (
    "accelerate.commands.launch",
    "accelerate.commands.accelerate_cli",
    "torch.distributed.run",
    "torch.distributed.launch",
)
#: variable with the process id of the run's first process, in those that it has started itself
STARTED_BY = "DANCEOPD_STARTED_BY"
#: seconds between two looks at the launcher
EVERY = 0.5


def is_first_process() -> bool:
    """Whether this is the process of its run that writes and prints."""
    return os.environ.get("RANK", "0") == "0"


def is_launcher(words: list[str]) -> bool:
    """Whether a command line is that of a launcher, which ends when its processes do and not before."""
    return any(PurePath(word).name.removesuffix(".exe") in PROGRAMS or word in MODULES for word in words[:6])


def find_launcher() -> Any | None:
    """The launcher (a psutil.Process) that started this process; None if a person or a shell did."""
    try:
        import psutil  # here: accelerate brings it, and what needs no accelerate runs without it
    except ImportError:
        return None
    # on Windows the python.exe of a virtual environment is between the two
    parents = psutil.Process().parents()[: 2 if os.name == "nt" else 1]
    return next((parent for parent in parents if is_launcher(words_of(parent))), None)


def words_of(process: Any) -> list[str]:
    """The command line of a psutil.Process; nothing if that is not ours to see."""
    import psutil

    try:
        return process.cmdline()
    except psutil.Error:
        return []


def about_exit_code() -> str:
    """A note on what the launcher adds to an exit code that is not 0; empty if it adds nothing."""
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
    """Inside the block, call `gone` with the reason, once, if this process's launcher ends before it.

    If another process of the run has started this one and ends, nothing is left to do: `end` is called instead. Both
    are called in a thread of their own.
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
    """Stands for a process that is gone."""

    def is_running(self) -> bool:
        return False

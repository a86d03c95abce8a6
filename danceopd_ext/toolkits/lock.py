"""Keeps two runs from writing the same results: a lock on an output_name in its output_dir.

The operating system holds the lock (flock, or LockFileEx on Windows) and releases it when the process ends, in whatever
way: a killed run locks nobody out.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import BaseFileLock, Timeout

from danceopd_ext.errors import UserError
from danceopd_ext.files import take_lock
from danceopd_ext.foreign.json import read_object
from danceopd_ext.toolkits.launched import is_first_process

#: seconds to wait for a process that only checks whether the lock is held
MOMENT = 0.3

_held: set[Path] = set()


@contextmanager
def only_run(folder: Path, name: str) -> Iterator[list[str]]:
    """Keep other runs with this output_name from writing to `folder` inside the block. Yields notes for the user.

    The folder is created if it is missing, and removed if it stays empty. Only the first process of a run does this.
    A note reports a drive without locks. Raises UserError if another run, of this or another process, holds the lock.
    """
    if not is_first_process():
        yield []
        return
    with _made(folder), _locked(folder, name) as notes:
        yield notes


@contextmanager
def _made(folder: Path) -> Iterator[None]:
    """Create the folder; remove it again if it is new and still empty, because the run was refused."""
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        if is_new:
            with suppress(OSError):  # it is not empty
                folder.rmdir()


@contextmanager
def _locked(folder: Path, name: str) -> Iterator[list[str]]:
    """Hold the lock inside the block and record who holds it. Yields a note on a drive without locks."""
    path = _lock_file(folder, name)
    lock = _take(path)
    if lock is None:
        yield [
            f"{folder} is on a drive that does not support file locks: do not start a second run with output_name = "
            f'"{name}" there while this one is running'
        ]
        return
    owner = _owner_file(folder, name)
    _held.add(path.resolve())
    try:
        with suppress(OSError):
            owner.write_text(json.dumps(_about_this_process()), encoding="utf-8")
        yield []
    finally:
        _held.discard(path.resolve())
        with suppress(OSError):
            owner.unlink()
        _give_back(lock, path)


def refuse_second_run(folder: Path, name: str) -> None:
    """Raise UserError if a run with this output_name writes to `folder` now. Writes nothing."""
    if is_first_process() and _lock_file(folder, name).exists():
        lock = _take(_lock_file(folder, name))
        if lock is not None:
            lock.release()


def holds(folder: Path, name: str) -> bool:
    """Return whether this process holds the lock: unfinished files of this name then have no owner."""
    return _lock_file(folder, name).resolve() in _held


def _lock_file(folder: Path, name: str) -> Path:
    return folder / f".{name}.lock"


def _owner_file(folder: Path, name: str) -> Path:
    """Return the file that says who holds the lock: on Windows no other process can read the locked one."""
    return folder / f".{name}.lock.json"


def _take(path: Path) -> BaseFileLock | None:
    """Acquire the lock; None if the drive or the permissions allow no lock.

    Raises UserError if another run holds it.
    """
    try:
        lock = take_lock(path, MOMENT)
        # the previous run removed the file after this one had opened it
        if lock and os.name == "posix" and not path.exists():
            lock.release()
            lock = take_lock(path, MOMENT)
    except Timeout:
        raise UserError(_refusal(path)) from None
    return lock


def _give_back(lock: BaseFileLock, path: Path) -> None:
    """Remove the file while it is still locked; Windows refuses that as long as the file is open."""
    if os.name == "posix":
        with suppress(OSError):  # the folder may be gone or protected by now: that must not hide how the run ended
            path.unlink()
        lock.release()
        return
    lock.release()
    with suppress(OSError):
        path.unlink()


def _about_this_process() -> dict[str, object]:
    return {"process": os.getpid(), "host": platform.node(), "since": time.strftime("%Y-%m-%d %H:%M")}


def _refusal(path: Path) -> str:
    name = path.name[1 : -len(".lock")]
    who = ""
    with suppress(UserError, ValueError, KeyError, TypeError):
        facts = read_object(_owner_file(path.parent, name), "owner of a lock", most=1000)
        who = " (process {process:d} on {host}, since {since})".format(**facts)
    return (
        f'{path.parent}: another run with output_name = "{name}" is writing here{who}. Wait until it ends, stop it, or '
        "choose another output_name or output_dir."
    )

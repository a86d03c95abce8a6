"""Writes files and folders so that they appear complete or not at all.

A file is written under a temporary name in the same folder, flushed to the disk and renamed. A process that is killed
at any moment leaves the old file, the new file, or nothing under the final name.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
import time
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from danceopd_ext.errors import UserError

#: on Windows nobody can replace a file that another program has open, such as a UI or, for a moment, a virus scanner
HELD_OPEN = os.name == "nt"
#: seconds to wait for such a program to close the file
PATIENCE = 5.0

#: a temporary name: contains the name of the file or folder, and shows that it is ours
TEMPORARY = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{8}\.danceopd\.part")
#: the lock file of a folder that one process at a time fills
LOCK = ".danceopd.lock"
#: extensions before which a number can be inserted
ENDINGS = (".safetensors", ".ckpt", ".pt", ".png")
#: errors of disks that cannot flush, such as some network drives
_NO_FLUSH = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)


def _temporary_name(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.danceopd.part")


def remove_leftovers(folder: Path, is_own: Callable[[str], bool] = lambda _: True) -> int:
    """Remove the unfinished files and folders of killed processes in `folder`; return how many there were.

    `is_own`: whether the temporary files of a final name may be removed. A lock must ensure that nobody else writes
    files with such names, because files that another process is writing look the same.
    """
    try:
        named = [(path, TEMPORARY.fullmatch(path.name)) for path in folder.iterdir()]
    except OSError:
        return 0
    left = [path for path, found in named if found and is_own(found["name"])]
    for path in left:
        _delete(path)
    return sum(not os.path.lexists(path) for path in left)


def _delete(path: Path) -> None:
    """Delete a file, a folder with its content, or a link without its target, as far as the system permits."""
    with suppress(OSError):
        if path.is_dir() and not is_link(path):
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()


def is_link(path: Path) -> bool:
    """Return whether it is a symbolic link, even a broken one, or a junction of Windows."""
    return path.is_symlink() or getattr(os.path, "isjunction", lambda _: False)(path)  # Python 3.12


def refuse_links(paths: Iterable[Path], remedy: str = "Remove the link") -> None:
    """Raise UserError if one of these is a link: the run would write to its target.

    An output folder from somebody else may contain links to the user's own files.
    """
    for path in paths:
        if is_link(path):
            target = os.readlink(path)
            raise UserError(f"{path} is a link to {target}, and the run would write there. {remedy}.")


@contextmanager
def only_writer(folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Keep other processes from filling this folder inside the block, and remove unfinished files of killed ones.

    Waits while another process fills it, and reports that. On a disk without locks nothing is removed.
    """
    lock = _locked(folder, say)
    if lock is None:
        yield
        return
    try:
        remove_leftovers(folder)
        yield
    finally:
        lock.release()


def _locked(folder: Path, say: Callable[[str], None]) -> BaseFileLock | None:
    """Acquire the folder's lock; None on a disk without locks."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return take_lock(folder / LOCK, 0)
    except Timeout:
        say(f"waiting for another run to finish writing to {folder}")
        return take_lock(folder / LOCK)
    except OSError:
        return None


def take_lock(path: Path, seconds: float = -1) -> BaseFileLock | None:
    """Lock a file, which the operating system unlocks when the process ends; None on a disk without locks.

    `seconds`: how long to wait for another holder; -1 waits for ever. Raises filelock.Timeout.
    """
    lock = FileLock(path)
    try:
        if is_link(path):  # older versions of filelock write through a link
            path.unlink()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # filelock's message on a disk without locks
            lock.acquire(timeout=seconds)
    except Timeout:
        if isinstance(lock, SoftFileLock):
            return None
        raise
    except (OSError, NotImplementedError):
        return None
    if isinstance(lock, SoftFileLock):  # filelock's fallback would outlive a killed run
        lock.release()
        return None
    return lock


def _flush(path: Path) -> None:
    with open(path, "rb+") as file:
        try:
            os.fsync(file.fileno())
        except OSError as problem:
            if problem.errno not in _NO_FLUSH:
                raise


def _usual_mode(path: Path) -> None:
    """Set the permissions of an ordinary new file: some libraries make theirs readable by the owner only."""
    if os.name == "posix":
        mask = os.umask(0)
        os.umask(mask)
        with suppress(PermissionError):  # a Windows disk has no such permissions
            path.chmod(0o666 & ~mask)


def _replace(source: Path, target: Path) -> None:
    """Rename, replacing the target. On Windows retry for a while if another program may have a file open."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return os.replace(source, target)
        except PermissionError:
            if not HELD_OPEN or time.monotonic() >= deadline:
                raise
            time.sleep(0.1)


def _put_in_place(part: Path, path: Path) -> None:
    """Give a finished file its final name."""
    _usual_mode(part)
    _flush(part)
    _replace(part, path)


def remove(path: Path) -> None:
    """Remove a file, a link or a folder, the latter completely or not at all, as far as the system permits."""
    with suppress(OSError):
        if path.is_dir() and not is_link(path):
            gone = _temporary_name(path)
            os.replace(path, gone)
            shutil.rmtree(gone, ignore_errors=True)
        else:
            path.unlink()


def free_name(path: Path) -> Path:
    """Return `NAME-2.safetensors` or the next such name that is free; for a folder `NAME-2`."""
    suffix = path.suffix if path.suffix in ENDINGS else ""
    stem = path.name.removesuffix(suffix)
    return next(free for n in count(2) if not os.path.lexists(free := path.with_name(f"{stem}-{n}{suffix}")))


@contextmanager
def _temporary_path(path: Path) -> Iterator[Path]:
    """Yield a free name in the folder of `path`, which is created if needed; delete what is left there afterwards."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = _temporary_name(path)
    try:
        yield part
    finally:
        _delete(part)


@contextmanager
def whole_file(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path to write to; on success it is flushed and renamed to `path`."""
    path = Path(path)
    with _temporary_path(path) as part:
        yield part
        _put_in_place(part, path)


@contextmanager
def whole_named_file(path: str | os.PathLike) -> Iterator[Path]:
    """Do as `whole_file` for a writer that needs the extension: the temporary path keeps the name in another folder."""
    path = Path(path)
    with _temporary_path(path) as folder:
        folder.mkdir()
        part = folder / path.name
        yield part
        _put_in_place(part, path)


@contextmanager
def whole_folder(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary folder to fill; on success its files are flushed and it is renamed to `path`.

    An existing folder at `path` is replaced; it is removed only after the new one is complete.
    """
    path = Path(path)
    with _temporary_path(path) as part:
        part.mkdir()
        yield part
        for file in part.rglob("*"):
            if file.is_file():
                _usual_mode(file)
                _flush(file)
        _put_folder_in_place(part, path)


def _put_folder_in_place(part: Path, path: Path) -> None:
    """Rename the folder `part` to `path`; an existing folder is removed afterwards, or restored if that fails."""
    if not os.path.lexists(path):
        _replace(part, path)
        return
    old = _temporary_name(path)
    _replace(path, old)
    try:
        _replace(part, path)
    except OSError:
        _replace(old, path)
        raise
    _delete(old)


def check_writable(folder: Path, option: str = "output_dir") -> None:
    """Raise UserError unless files can be created in `folder` (or the folder itself, if it does not exist yet).

    `option`: the user's key or flag for the folder.
    """
    existing = folder
    while not os.path.exists(existing) and existing != existing.parent:
        existing = existing.parent
    try:
        if not existing.is_dir():
            raise NotADirectoryError(20, f"{existing} is a file, not a folder")
        for name in folder.relative_to(existing).parts:
            with suppress(FileNotFoundError):
                os.stat(existing / name)  # raises for an impossible name
        with tempfile.TemporaryFile(dir=existing):
            pass
    except (OSError, ValueError) as error:  # ValueError: a null character
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"{option} = {os.fspath(folder)!r} cannot be written ({reason}): choose another folder."
        ) from error

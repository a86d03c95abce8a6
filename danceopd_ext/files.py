"""Files and folders that appear whole or not at all.

A file is written under a temporary name in the same folder, flushed to the disk and renamed, so that a process
killed at any moment leaves either the old file, the new file, or nothing under the final name.
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

#: on Windows nobody can replace what another program has open: a UI its LoRA or, for a moment, a virus scanner any file
HELD_OPEN = os.name == "nt"
#: seconds that such a program has to let go
PATIENCE = 5.0

#: a temporary name: of which file or folder, and that it is ours
TEMPORARY = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{8}\.danceopd\.part")
#: the file in a folder that one process at a time fills
LOCK = ".danceopd.lock"
#: of files that a number can go before
ENDINGS = (".safetensors", ".ckpt", ".pt", ".png")
#: what a disk says that cannot flush: some network drives
_NO_FLUSH = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)


def _temporary_name(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.danceopd.part")


def remove_leftovers(folder: Path, is_own: Callable[[str], bool] = lambda _: True) -> int:
    """Remove what killed processes left half written in `folder`; return how many files and folders that were.

    `is_own`: of the final name, whether its temporary files are garbage. They are if a lock says that nobody else
    writes files of such names: what another process is writing looks the same.
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
    """Delete a file, a folder with what is in it, or a link without what it points to, as far as the system lets."""
    with suppress(OSError):
        if path.is_dir() and not is_link(path):
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()


def is_link(path: Path) -> bool:
    """Whether it is a symbolic link, also one to nothing, or a junction of Windows."""
    return path.is_symlink() or getattr(os.path, "isjunction", lambda _: False)(path)  # Python 3.12


def refuse_links(paths: Iterable[Path], remedy: str = "Remove the link") -> None:
    """Raise UserError if one of these is a link: the run would write to where it points.

    An output folder that somebody has got from others may hold links to the user's own files.
    """
    for path in paths:
        if is_link(path):
            target = os.readlink(path)
            raise UserError(f"{path} is a link to {target}, and the run would write there. {remedy}.")


@contextmanager
def only_writer(folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Inside, no other process fills this folder; what killed ones left half written in it is removed.

    Waits while another process fills it, and says so. On a disk that has no locks nothing is removed.
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
    """The folder's lock, held; None on a disk that has none."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return take_lock(folder / LOCK, 0)
    except Timeout:
        say(f"waiting for another run to finish writing to {folder}")
        return take_lock(folder / LOCK)
    except OSError:
        return None


def take_lock(path: Path, seconds: float = -1) -> BaseFileLock | None:
    """Lock a file, which the operating system unlocks when the process ends; None on a disk that has no locks.

    `seconds`: how long to wait for another holder; -1 is for ever. Raises filelock.Timeout.
    """
    lock = FileLock(path)
    try:
        if is_link(path):  # older versions of filelock write through it
            path.unlink()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its own words on a disk without locks
            lock.acquire(timeout=seconds)
    except Timeout:
        if isinstance(lock, SoftFileLock):
            return None
        raise
    except (OSError, NotImplementedError):
        return None
    if isinstance(lock, SoftFileLock):  # what filelock falls back to would outlive a run that is killed
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
    """The permissions of any new file: some libraries make theirs readable by the owner only."""
    if os.name == "posix":
        mask = os.umask(0)
        os.umask(mask)
        with suppress(PermissionError):  # a disk of Windows' own form has no such permissions
            path.chmod(0o666 & ~mask)


def _replace(source: Path, target: Path) -> None:
    """Rename, over what is there; PermissionError only after a while where another program may have either open."""
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
    """Remove a file, a link or a folder, the latter whole or not at all. What the system does not let go stays."""
    with suppress(OSError):
        if path.is_dir() and not is_link(path):
            gone = _temporary_name(path)
            os.replace(path, gone)
            shutil.rmtree(gone, ignore_errors=True)
        else:
            path.unlink()


def free_name(path: Path) -> Path:
    """`NAME-2.safetensors`, or the first such name after it that nobody has; a folder's is `NAME-2`."""
    suffix = path.suffix if path.suffix in ENDINGS else ""
    stem = path.name.removesuffix(suffix)
    return next(free for n in count(2) if not os.path.lexists(free := path.with_name(f"{stem}-{n}{suffix}")))


@contextmanager
def _temporary_path(path: Path) -> Iterator[Path]:
    """Yield a free name in the folder of `path`, which is made if needed; delete what is there afterwards."""
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
    """`whole_file` for a writer that looks at the ending: the temporary path has the final name, in another folder."""
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
    """Rename the folder `part` to `path`; what was there is removed afterwards, and comes back if that fails."""
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
    """Raise UserError unless files can be made in `folder` (or the folder itself, where it does not exist yet).

    `option`: what the user calls the folder.
    """
    existing = folder
    while not os.path.exists(existing) and existing != existing.parent:
        existing = existing.parent
    try:
        if not existing.is_dir():
            raise NotADirectoryError(20, f"{existing} is a file, not a folder")
        for name in folder.relative_to(existing).parts:
            with suppress(FileNotFoundError):
                os.stat(existing / name)  # raises for what cannot be a name
        with tempfile.TemporaryFile(dir=existing):
            pass
    except (OSError, ValueError) as error:  # ValueError: a null character
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"{option} = {os.fspath(folder)!r} cannot be written ({reason}): choose another folder."
        ) from error

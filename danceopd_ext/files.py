"""Files and folders that appear whole or not at all.

A file is written under a temporary name in the same folder, flushed to the disk and renamed, so that a process
killed at any moment leaves either the old file, the new file, or nothing under the final name.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from danceopd_ext.errors import UserError

#: on Windows nobody can replace what another program has open: a UI its LoRA or, for a moment, a virus scanner any file
HELD_OPEN = os.name == "nt"
#: seconds that such a program has to let go
PATIENCE = 5.0


def _temporary_name(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")


def _flush(path: Path) -> None:
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def _usual_mode(path: Path) -> None:
    """The permissions of any new file: some libraries make theirs readable by the owner only."""
    if os.name == "posix":
        mask = os.umask(0)
        os.umask(mask)
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


def remove(path: Path) -> None:
    """Remove a file or a folder, the latter whole or not at all. What another program has open stays."""
    with suppress(PermissionError):
        if path.is_dir():
            gone = _temporary_name(path)
            os.replace(path, gone)
            shutil.rmtree(gone, ignore_errors=True)
        else:
            path.unlink()


@contextmanager
def whole_file(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path to write to; on success it is flushed and renamed to `path`."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = _temporary_name(path)
    try:
        yield part
        _usual_mode(part)
        _flush(part)
        _replace(part, path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary folder to fill; on success its files are flushed and it is renamed to `path`.

    An existing folder at `path` is replaced; it is removed only after the new one is complete.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = _temporary_name(path)
    part.mkdir()
    try:
        yield part
        for file in part.rglob("*"):
            if file.is_file():
                _usual_mode(file)
                _flush(file)
        if path.exists():
            old = _temporary_name(path)
            _replace(path, old)
            try:
                _replace(part, path)
            except OSError:
                _replace(old, path)
                raise
            shutil.rmtree(old, ignore_errors=True)
        else:
            _replace(part, path)
    finally:
        shutil.rmtree(part, ignore_errors=True)


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

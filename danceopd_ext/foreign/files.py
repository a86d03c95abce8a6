"""Opens files that a user named: only regular files of a bounded size, nothing that never ends."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from danceopd_ext.errors import MissingFile, UserError, readable

MIB = 2**20


def check_file(path: Path, what: str) -> os.stat_result:
    """Return the status of a regular file, or of the target of a symbolic link.

    `what` says in messages what the file is, for example "prompt file". Raises MissingFile, and UserError for a folder,
    a device, a pipe, a socket and a file that may not be inspected.
    """
    try:
        status = os.stat(path)
    except FileNotFoundError:
        message = f"{path}: {what} not found. Check the path (the current folder is {Path.cwd()})."
        raise MissingFile(message, path) from None
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        raise UserError(_unreadable(path, what, error)) from None
    if stat.S_ISDIR(status.st_mode):
        raise UserError(f"{path}: expected a {what}, but this is a folder.")
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{path}: expected a {what}, but this is {_kind(status.st_mode)}. Name a regular file.")
    return status


def check_place(path: Path, where: str) -> None:
    """Raise UserError, which begins with `where`, for an existing path that is neither a folder nor a regular file."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return  # opening it will report what is wrong
    if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
        raise UserError(f"{where}: {path} is {_kind(mode)}, not a file or folder. Name a file or folder.")


def read_bytes(path: Path, what: str, most: int) -> bytes:
    """Return the content of a regular file of at most `most` bytes. Raises as `check_file` does."""
    size, data = check_file(path, what).st_size, b""
    try:
        if size <= most:
            with open(path, "rb") as file:
                while len(data) <= most and (more := file.read(max(MIB, size - len(data) + 1))):
                    data += more
                size = len(data)
    except OSError as error:
        raise UserError(_unreadable(path, what, error)) from None
    if size > most:
        raise UserError(
            f"{path}: the {what} has {size / MIB:,.1f} MiB, and at most {most / MIB:,g} MiB are read. Is it the right "
            "file? Split it, or make it smaller."
        )
    return data


def _unreadable(path: Path, what: str, error: Exception) -> str:
    if isinstance(error, OSError):
        return f"{path}: the {what} cannot be read: {error.strerror or error}."
    return f"{readable(repr(str(path)))}: the {what} cannot be read: {error}. Check the path."


def _kind(mode: int) -> str:
    kinds = {stat.S_ISFIFO: "a pipe", stat.S_ISSOCK: "a socket", stat.S_ISCHR: "a device", stat.S_ISBLK: "a device"}
    return next((name for test, name in kinds.items() if test(mode)), "something else")

"""What the operating system would not do, as a message and an exit code."""

from __future__ import annotations

import errno
import os
import sys
from contextlib import suppress

from danceopd_ext.errors import few_letters, printable, readable

#: what safetensors says of a full disk, on Linux and macOS, and on Windows
FULL = ("(os error 28)", "(os error 112)")


def is_disk_full(problem: BaseException | None) -> bool:
    """Whether the disk had no space left; torch and safetensors hide that in errors of their own."""
    if problem is None:
        return False
    own = isinstance(problem, OSError) and problem.errno == errno.ENOSPC
    return own or any(word in str(problem) for word in FULL) or is_disk_full(problem.__cause__ or problem.__context__)


def show(text: str) -> None:
    """Print. If the reader has closed the pipe, as `| head` does, end with exit code 1 and no message.

    Control characters, which come from files, are written out.
    """
    try:
        print(printable(text, keep="\n\t"), flush=True)
    except OSError as problem:
        if problem.errno not in (errno.EPIPE, errno.EINVAL):  # the latter is what Windows says
            raise
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for Python's own last flush
        raise SystemExit(1) from None


def refused(problem: OSError) -> tuple[int, str]:
    """The exit code and the message for what the system would not do; 0 for what a person can do nothing about."""
    name = readable(few_letters(str(problem.filename)))
    if problem.errno == errno.ENAMETOOLONG or getattr(problem, "winerror", None) == 206:
        return 2, f"error: {name}: too long for the name of a file. Check it."
    if is_disk_full(problem):
        return 1, "stopped: no space is left on the disk. Free some; what was saved before is whole."
    if isinstance(problem, PermissionError) and problem.filename:
        return 1, (
            f"stopped: {name} cannot be used ({problem.strerror}). Close other programs that have it open, or check "
            "its permissions."
        )
    return 0, ""

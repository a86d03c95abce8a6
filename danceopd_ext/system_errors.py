"""Turns errors of the operating system into a message and an exit code."""

from __future__ import annotations

import errno
import os
import sys
from contextlib import suppress

from danceopd_ext.disk_errors import DiskProblem, disk_problem, general_disk_problem
from danceopd_ext.errors import printable, readable, shorten


def show(text: str) -> None:
    """Print. If the reader has closed the pipe, as `| head` does, exit with code 1 and no message.

    Control characters, which come from files, are shown as escapes.
    """
    try:
        print(printable(text, keep="\n\t"), flush=True)
    except OSError as problem:
        if problem.errno not in (errno.EPIPE, errno.EINVAL):  # Windows raises EINVAL
            raise
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for Python's own last flush
        raise SystemExit(1) from None


def refused(problem: Exception) -> tuple[int, str]:
    """Return the exit code and the message for an error of the system; 0 if the user can do nothing about it."""
    named = getattr(problem, "filename", None)
    name = readable(shorten(str(named)))
    if getattr(problem, "errno", None) == errno.ENAMETOOLONG or getattr(problem, "winerror", None) == 206:
        return 2, f"error: {name}: the file name is too long. Use a shorter one."
    found = disk_problem(problem) if isinstance(problem, OSError) and named else general_disk_problem(problem)
    if not found:
        return 0, ""
    if isinstance(problem, FileNotFoundError):
        found = DiskProblem("no such file or folder", "Check the name.")
    where = f"{name}: " if named else ""
    return 1, f"stopped: {where}{readable(found.reason)}. {found.remedy}"

"""Explains why a file could not be written: the disk is full, read-only, over its quota, gone, or in use.

torch, safetensors and Pillow hide the system's error inside their own errors; this module finds it there.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from dataclasses import dataclass

FULL, QUOTA = "no space is left on the disk", "the disk quota is used up"
LARGE = "the file is larger than the disk or `ulimit -f` allows"
READ_ONLY, BROKEN = "the disk is now read-only", "the disk reports an error"
FORBIDDEN, GONE = "the file or folder is protected", "the folder is gone"
AWAY, IN_USE = "the drive does not answer", "another program has the file open"
OTHER = "something else has this name"
MANY, UNKNOWN = "too many files are open", "a file could not be written"

#: the reasons that concern the disk as a whole, whatever the file
OF_THE_DISK = (FULL, QUOTA, LARGE, READ_ONLY, BROKEN, AWAY, MANY)
#: the remedy for each reason
REMEDIES = {
    FULL: "Free some space.",
    QUOTA: "Delete something, or ask for more space.",
    LARGE: "Raise that limit, or use another disk.",
    READ_ONLY: "Mount it for writing again, or use another disk.",
    BROKEN: "Check the disk and its cable.",
    FORBIDDEN: "Check the permissions.",
    GONE: "Create it again, or reconnect its drive.",
    AWAY: "Reconnect it.",
    IN_USE: "Close that program.",
    OTHER: "Move or rename it.",
    MANY: "Close other programs, or raise `ulimit -n`.",
    UNKNOWN: "Check the disk.",
}
#: POSIX names of the system's errors; not every system has all of them
_NAMES = {
    FULL: ("ENOSPC",),
    QUOTA: ("EDQUOT",),
    LARGE: ("EFBIG",),
    READ_ONLY: ("EROFS",),
    BROKEN: ("EIO", "EUCLEAN", "EBADMSG"),
    FORBIDDEN: ("EPERM", "EACCES"),
    GONE: ("ENOENT", "ENOTDIR", "ENODEV", "ENXIO"),
    AWAY: ("ESTALE", "ENOTCONN", "ETIMEDOUT", "EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETUNREACH", "EREMOTEIO"),
    IN_USE: ("EBUSY", "ETXTBSY"),
    OTHER: ("EEXIST", "EISDIR", "ENOTEMPTY"),
    MANY: ("EMFILE", "ENFILE"),
}
_POSIX = {getattr(errno, name): words for words, names in _NAMES.items() for name in names if hasattr(errno, name)}
#: the same for Windows, where one POSIX number stands for many of these
_WINDOWS = {
    **dict.fromkeys((39, 112), FULL),
    1295: QUOTA,
    223: LARGE,
    19: READ_ONLY,
    **dict.fromkeys((23, 483, 1117, 1392, 1393), BROKEN),
    5: FORBIDDEN,
    **dict.fromkeys((2, 3, 15), GONE),
    **dict.fromkeys((21, 53, 54, 55, 59, 64, 67, 121, 433, 1167, 1231), AWAY),
    **dict.fromkeys((32, 33, 1224), IN_USE),
    **dict.fromkeys((80, 145, 183), OTHER),
    4: MANY,
}
#: how Rust (safetensors) writes the system's error number, before and since version 0.5
_RUST = re.compile(r"\(os error (\d+)\)|\bOs \{ code: (\d+)")
#: messages of torch's and Pillow's writers that give no reason
_UNKNOWN = re.compile(
    r"PytorchStreamWriter failed|enforce fail at inline_container|iostream error|Parent directory .* does not exist"
    r"|encoder error -\d+ when writing image file"
)


@dataclass(frozen=True)
class DiskProblem:
    """Why a file could not be written: a `reason` for a message, and a `remedy` as a sentence."""

    reason: str
    remedy: str

    @property
    def is_in_use(self) -> bool:
        """Whether another name in the same folder may work."""
        return self.reason in (IN_USE, FORBIDDEN)


def disk_problem(problem: BaseException | None) -> DiskProblem | None:
    """Return what was wrong with the disk if that caused the exception; None for any other error."""
    unknown = None
    for one in _all_of(problem):
        reason = _reason(one)
        if reason:
            return DiskProblem(reason, REMEDIES[reason])
        if _is_own(one) and one.errno and one.strerror:  # a rare error, in the system's words
            unknown = unknown or DiskProblem(one.strerror.rstrip("."), REMEDIES[UNKNOWN])
        elif _UNKNOWN.search(str(one)):
            unknown = unknown or DiskProblem(UNKNOWN, REMEDIES[UNKNOWN])
    return unknown


def general_disk_problem(problem: BaseException) -> DiskProblem | None:
    """Return `disk_problem` only if it concerns the disk as a whole: a missing file can have any cause."""
    found = disk_problem(problem)
    return found if found and found.reason in (*OF_THE_DISK, UNKNOWN) else None


def _reason(problem: BaseException) -> str | None:
    if _is_own(problem):
        windows = getattr(problem, "winerror", None)
        return _WINDOWS.get(windows) or _POSIX.get(problem.errno or 0)
    found = None if isinstance(problem, OSError) else _RUST.search(str(problem))
    if not found:
        return None
    number = int(found[1] or found[2])
    # Both systems number errors from 1: a number that both use is read as this system's.
    first, second = (_WINDOWS, _POSIX) if _ON_WINDOWS else (_POSIX, _WINDOWS)
    return first.get(number) or second.get(number)


def _is_own(problem: BaseException) -> bool:
    """Return whether the error concerns a file, not another process or computer."""
    others = (BrokenPipeError, ConnectionError, ChildProcessError, InterruptedError, BlockingIOError)
    return isinstance(problem, OSError) and not isinstance(problem, others)


def _all_of(problem: BaseException | None) -> Iterator[BaseException]:
    """Yield the exception and those that it was raised from or while handling."""
    seen: set[int] = set()
    while problem is not None and id(problem) not in seen:
        seen.add(id(problem))
        yield problem
        problem = problem.__cause__ or problem.__context__


_ON_WINDOWS = hasattr(errno, "WSAEINVAL")

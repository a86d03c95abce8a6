"""Why a disk does not take a file, found wherever a library hides it."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest
from safetensors import SafetensorError

from danceopd_ext import disks
from danceopd_ext.disks import disk_problem, of_the_disk


def hidden(problem: Exception, text: str = "unexpected pos 704 vs 598") -> RuntimeError:
    """As torch.save raises it."""
    try:
        try:
            raise problem
        except type(problem):
            raise RuntimeError(text)  # noqa: B904
    except RuntimeError as error:
        return error


def windows(number: int) -> OSError:
    """As Windows raises it: the number of POSIX says little."""
    error = PermissionError(errno.EACCES, "in its own words")
    error.winerror = number
    return error


@pytest.mark.parametrize(
    ("problem", "reason"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), disks.FULL),
        (SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"), disks.FULL),
        (SafetensorError('IoError(Os { code: 28, kind: StorageFull, message: "No space left" })'), disks.FULL),
        (hidden(OSError(errno.ENOSPC, "No space left on device")), disks.FULL),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), disks.QUOTA),
        (SafetensorError("(os error 122)"), disks.QUOTA),
        (OSError(errno.EFBIG, "File too large"), disks.LARGE),
        (OSError(errno.EROFS, "Read-only file system"), disks.READ_ONLY),
        (OSError(errno.EIO, "Input/output error"), disks.BROKEN),
        (PermissionError(errno.EPERM, "Operation not permitted"), disks.FORBIDDEN),
        (FileNotFoundError(errno.ENOENT, "No such file or directory"), disks.GONE),
        (OSError(errno.ESTALE, "Stale file handle"), disks.AWAY),
        (OSError(errno.EMFILE, "Too many open files"), disks.MANY),
        (FileExistsError(errno.EEXIST, "File exists"), disks.OTHER),
        (OSError(errno.ENOLCK, "No locks available"), "No locks available"),
        (windows(32), disks.IN_USE),
        (windows(112), disks.FULL),
        (windows(53), disks.AWAY),
        (windows(5), disks.FORBIDDEN),
        (RuntimeError("[enforce fail at inline_container.cc:603] . PytorchStreamWriter failed"), disks.UNKNOWN),
        (OSError("encoder error -2 when writing image file"), disks.UNKNOWN),
    ],
)
def test_a_problem_of_the_disk(problem, reason):
    found = disk_problem(problem)
    assert found.reason == reason
    assert found.remedy.endswith(".")


def test_numbers_of_windows_are_read_on_windows(monkeypatch):
    monkeypatch.setattr(disks, "_ON_WINDOWS", True)
    assert disk_problem(SafetensorError("There is not enough space on the disk. (os error 112)")).reason == disks.FULL
    assert disk_problem(SafetensorError("The process cannot access the file (os error 32)")).reason == disks.IN_USE


@pytest.mark.parametrize(
    "problem",
    [
        hidden(ValueError("another")),
        SafetensorError("header too large"),
        BrokenPipeError(errno.EPIPE, "a worker's"),
        ConnectionResetError(errno.ECONNRESET, "another process'"),
        OSError("cannot write mode RGBA as JPEG"),
        ValueError("no disk"),
        None,
    ],
)
def test_another_problem(problem):
    assert disk_problem(problem) is None


def test_a_missing_file_in_the_history_of_another_error_is_not_blamed():
    assert of_the_disk(hidden(FileNotFoundError(errno.ENOENT, "no such file"), "a fault of ours")) is None
    assert of_the_disk(OSError(errno.EINVAL, "Invalid argument")) is None
    assert of_the_disk(hidden(OSError(errno.EROFS, "read-only"))).reason == disks.READ_ONLY


def test_errors_that_are_each_others_context():
    one, other = ValueError("one"), ValueError("other")
    one.__context__, other.__context__ = other, one
    assert disk_problem(one) is None


LIMITED = """
import resource, sys, torch
from pathlib import Path
from safetensors.torch import save_file
from danceopd_ext.disks import disk_problem
from danceopd_ext.files import whole_file

resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
tensor, folder = torch.zeros(10_000), Path(sys.argv[1])
writers = {
    "safetensors": lambda path: save_file({"x": tensor}, path),
    "torch": lambda path: torch.save(tensor, path),
    "torch, open file": lambda path: torch.save(tensor, open(path, "wb")),
    "Python": lambda path: path.write_bytes(bytes(10_000)),
}
for name, write in writers.items():
    try:
        with whole_file(folder / "x") as part:
            write(part)
    except Exception as error:
        print(name, "|", disk_problem(error).reason)
print([path.name for path in folder.iterdir()])
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such limit")
def test_a_limit_of_the_size_of_files(tmp_path):
    """The system's signal kills nobody, each library's error is known, and nothing is left."""
    told = subprocess.run([sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, text=True, check=True)
    *lines, left = told.stdout.splitlines()
    assert [line.split(" | ")[0] for line in lines] == ["safetensors", "torch", "torch, open file", "Python"]
    assert {line.split(" | ")[1] for line in lines} <= {disks.LARGE, disks.UNKNOWN}
    assert lines[0].endswith(disks.LARGE) and lines[3].endswith(disks.LARGE)
    assert left == "[]"

"""Why a disk does not take a file, found wherever a library hides it."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest
from safetensors import SafetensorError

from danceopd_ext import disk_errors as errors
from danceopd_ext.disk_errors import disk_problem, general_disk_problem


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
        (OSError(errno.ENOSPC, "No space left on device"), errors.FULL),
        (
            SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
            errors.FULL,
        ),
        (SafetensorError('IoError(Os { code: 28, kind: StorageFull, message: "No space left" })'), errors.FULL),
        (hidden(OSError(errno.ENOSPC, "No space left on device")), errors.FULL),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), errors.QUOTA),
        (SafetensorError("(os error 122)"), errors.QUOTA),
        (OSError(errno.EFBIG, "File too large"), errors.LARGE),
        (OSError(errno.EROFS, "Read-only file system"), errors.READ_ONLY),
        (OSError(errno.EIO, "Input/output error"), errors.BROKEN),
        (PermissionError(errno.EPERM, "Operation not permitted"), errors.FORBIDDEN),
        (FileNotFoundError(errno.ENOENT, "No such file or directory"), errors.GONE),
        (OSError(errno.ESTALE, "Stale file handle"), errors.AWAY),
        (OSError(errno.EMFILE, "Too many open files"), errors.MANY),
        (FileExistsError(errno.EEXIST, "File exists"), errors.OTHER),
        (OSError(errno.ENOLCK, "No locks available"), "No locks available"),
        (windows(32), errors.IN_USE),
        (windows(112), errors.FULL),
        (windows(53), errors.AWAY),
        (windows(5), errors.FORBIDDEN),
        (RuntimeError("[enforce fail at inline_container.cc:603] . PytorchStreamWriter failed"), errors.UNKNOWN),
        (OSError("encoder error -2 when writing image file"), errors.UNKNOWN),
    ],
)
def test_a_problem_of_the_disk(problem, reason):
    found = disk_problem(problem)
    assert found.reason == reason
    assert found.remedy.endswith(".")


def test_numbers_of_windows_are_read_on_windows(monkeypatch):
    monkeypatch.setattr(errors, "_ON_WINDOWS", True)
    assert disk_problem(SafetensorError("There is not enough space on the disk. (os error 112)")).reason == errors.FULL
    assert disk_problem(SafetensorError("The process cannot access the file (os error 32)")).reason == errors.IN_USE


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
    assert general_disk_problem(hidden(FileNotFoundError(errno.ENOENT, "no such file"), "a fault of ours")) is None
    assert general_disk_problem(OSError(errno.EINVAL, "Invalid argument")) is None
    assert general_disk_problem(hidden(OSError(errno.EROFS, "read-only"))).reason == errors.READ_ONLY


def test_errors_that_are_each_others_context():
    one, other = ValueError("one"), ValueError("other")
    one.__context__, other.__context__ = other, one
    assert disk_problem(one) is None


LIMITED = """
import resource, sys, torch
from pathlib import Path
from safetensors.torch import save_file
from danceopd_ext.disk_errors import disk_problem
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
    assert {line.split(" | ")[1] for line in lines} <= {errors.LARGE, errors.UNKNOWN}
    assert lines[0].endswith(errors.LARGE) and lines[3].endswith(errors.LARGE)
    assert left == "[]"

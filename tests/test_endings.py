"""What the system would not do is one message, or the error that it is."""

from __future__ import annotations

import errno
import io
import subprocess
import sys

import pytest
from safetensors import SafetensorError

from danceopd_ext.cli import run
from danceopd_ext.endings import is_disk_full, show

FULL = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


def raising(problem):
    def main(_):
        raise problem

    return main


def hidden(problem: Exception) -> RuntimeError:
    """As torch.save raises it."""
    try:
        try:
            raise problem
        except type(problem):
            raise RuntimeError("unexpected pos 704 vs 598")  # noqa: B904
    except RuntimeError as error:
        return error


@pytest.mark.parametrize(
    ("problem", "full"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (FULL, True),
        (SafetensorError("(os error 112)"), True),
        (hidden(OSError(errno.ENOSPC, "No space left on device")), True),
        (hidden(ValueError("another")), False),
        (PermissionError(errno.EACCES, "in use"), False),
        (SafetensorError("header too large"), False),
    ],
)
def test_a_full_disk(problem, full):
    assert is_disk_full(problem) is full


@pytest.mark.parametrize(
    ("problem", "code", "told"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), 1, "stopped: no space is left on the disk"),
        (PermissionError(errno.EACCES, "in use", "C:/loras/x.safetensors"), 1, "stopped: C:/loras/x.safetensors "),
        (OSError(errno.ENAMETOOLONG, "too long", "x" * 999), 2, "too long for the name of a file"),
    ],
)
def test_what_a_person_can_mend_is_one_message(problem, code, told, capsys):
    assert run(raising(problem), []) == code
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    "problem", [BrokenPipeError(errno.EPIPE, "a worker's"), OSError(errno.EINVAL, "a bad file"), OSError("what?")]
)
def test_any_other_error_passes(problem):
    """Also a pipe that broke elsewhere: nobody else would say it."""
    with pytest.raises(OSError) as raised:
        run(raising(problem), [])
    assert raised.value is problem


@pytest.mark.parametrize("lines", [1, 100_000])
def test_a_reader_that_has_enough(lines):
    """As `| head` does: no traceback, neither from the command nor from Python's last flush."""
    code = f"import sys; from danceopd_ext.endings import show; show('x\\n' * {lines})"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


def test_output_that_is_no_console(monkeypatch):
    """pythonw has none at all."""
    monkeypatch.setattr(sys, "stdout", None)
    show("done")
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    show("done")
    assert sys.stdout.getvalue() == "done\n"

"""What the system would not do is one message, or the error that it is."""

from __future__ import annotations

import errno
import io
import subprocess
import sys

import pytest
from safetensors import SafetensorError

from danceopd_ext.cli import run
from danceopd_ext.system_errors import show


def raising(problem):
    def main(_):
        raise problem

    return main


@pytest.mark.parametrize(
    ("problem", "code", "told"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), 1, "stopped: no space is left on the disk"),
        (PermissionError(errno.EACCES, "in use", "C:/loras/x.safetensors"), 1, "stopped: C:/loras/x.safetensors: "),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "out/x.pt"), 1, "stopped: out/x.pt: the disk quota is used up. "),
        (
            FileNotFoundError(errno.ENOENT, "No such file", "out/x"),
            1,
            "stopped: out/x: no such file or folder",
        ),
        (OSError(errno.EINVAL, "Invalid argument", "out/x"), 1, "stopped: out/x: Invalid argument."),
        (SafetensorError("I/O error: Read-only file system (os error 30)"), 1, "stopped: the disk is now read-only"),
        (OSError(errno.ENAMETOOLONG, "too long", "x" * 999), 2, "the file name is too long"),
    ],
)
def test_what_a_person_can_mend_is_one_message(problem, code, told, capsys):
    assert run(raising(problem), []) == code
    said = capsys.readouterr().err
    assert told in said and said.count("\n") == 1
    assert "saved before" not in said  # nobody knows here


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
    code = f"import sys; from danceopd_ext.system_errors import show; show('x\\n' * {lines})"
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

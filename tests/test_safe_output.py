"""Writing to a screen that is gone ends no run, and gives it no other exit code."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys

import pytest
from tqdm import tqdm

from danceopd_ext.cli import run
from danceopd_ext.errors import Stopped
from danceopd_ext.safe_output import SafeStream, last_word, safe_output


class Gone(io.StringIO):
    """A stream whose writes fail."""

    def __init__(self, problem):
        super().__init__()
        self.problem = problem

    def write(self, _):
        raise self.problem

    flush = write


PROBLEMS = [
    OSError(errno.EIO, "Input/output error"),
    BrokenPipeError(errno.EPIPE, "Broken pipe"),
    OSError(errno.EINVAL, "Invalid argument"),
    OSError(errno.ENOSPC, "No space left on device"),
    ValueError("I/O operation on closed file"),
    RuntimeError("reentrant call inside <_io.BufferedWriter name='<stdout>'>"),
]


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: type(problem).__name__)
def test_prints_and_bars_go_on(monkeypatch, problem):
    stream = Gone(problem)
    stream.flush = lambda: stream.write("")
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, stream)
    if isinstance(problem, RuntimeError):
        stream.flush = lambda: None
    with safe_output():
        print("a line", flush=True)
        with tqdm(total=2, mininterval=0) as bar:
            bar.update()
            tqdm.write("another")
            bar.update()
    assert sys.stdout is stream
    last_word("the last", stream)


def test_a_screen_that_is_there_is_written_to(capsys):
    with safe_output():
        print("one")
        print("two", file=sys.stderr)
        assert isinstance(sys.stdout, SafeStream)
    assert capsys.readouterr() == ("one\n", "two\n")
    assert not isinstance(sys.stdout, SafeStream)


def test_without_a_screen(monkeypatch):
    """As under pythonw."""
    monkeypatch.setattr(sys, "stdout", None)
    with safe_output():
        print("nowhere")
    last_word("nowhere", None)


PROGRAM = """
import sys
from danceopd_ext.cli import run
from danceopd_ext.errors import Stopped, TrainingError, UserError
from danceopd_ext.safe_output import safe_output
def main(_):
    with safe_output():
        for _ in range(3000):
            print("a line that fills the buffer")
            print("another", file=sys.stderr)
    {}
sys.exit(run(main, []))
"""


@pytest.mark.parametrize(
    ("end", "code"),
    [
        ("pass", 0),
        ("raise Stopped('stopped after step 3.')", 130),
        ("raise TrainingError('why')", 1),
        ("raise UserError('what')", 2),
    ],
)
def test_a_pipe_that_nobody_reads_changes_no_exit_code(end, code):
    """Also not by Python's own last flush, which would make 120 of it."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(end)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()
    process.stderr.close()
    assert process.wait() == code


def test_a_stop_is_told_by_the_first_process_alone(monkeypatch, capsys):
    def main(_):
        raise Stopped("stopped after step 3.")

    assert run(main, []) == 130
    assert capsys.readouterr() == ("stopped after step 3.\n", "")
    monkeypatch.setenv("RANK", "1")
    assert run(main, []) == 130
    assert capsys.readouterr() == ("", "")


def test_a_full_disk_below_the_output_of_a_whole_process():
    """No traceback, no exit code of Python's own."""
    if not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")
    code = "from danceopd_ext.safe_output import safe_output\nwith safe_output(): print('x' * 100000)"
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (0, b"")

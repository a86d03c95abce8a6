"""Two runs do not write the same results, and a run that is dead locks nobody out."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import SoftFileLock

from danceopd_ext import files
from danceopd_ext.errors import UserError
from danceopd_ext.toolkits.lock import holds, only_run, refuse_second_run

HOLD = """
import sys
from pathlib import Path
from danceopd_ext.toolkits.lock import only_run
with only_run(Path(sys.argv[1]), "fused"):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def other_run(tmp_path):
    """A process that holds the lock of "fused" until it is told to go on."""
    words = [sys.executable, "-c", HOLD, str(tmp_path)]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_run_is_refused_and_told_whose_the_first_is(other_run, tmp_path):
    before = sorted(tmp_path.iterdir())
    for _ in range(2):  # asking does not make the answer poorer
        with pytest.raises(UserError) as refusal, only_run(tmp_path, "fused"):
            raise AssertionError("both run")
        for part in (str(tmp_path), '"fused"', f"process {other_run.pid} on ", "choose another output_name"):
            assert part in str(refusal.value)
    with pytest.raises(UserError, match="another run"):
        refuse_second_run(tmp_path, "fused")
    assert sorted(tmp_path.iterdir()) == before


def test_other_names_and_folders_go_on_together(other_run, tmp_path):
    with only_run(tmp_path, "fused2") as notes, only_run(tmp_path / "new", "fused"):
        assert notes == []
        refuse_second_run(tmp_path, "fused3")


def test_a_run_that_has_ended_leaves_nothing(other_run, tmp_path):
    other_run.communicate("\n")
    assert list(tmp_path.iterdir()) == []
    with only_run(tmp_path, "fused"):
        assert holds(tmp_path, "fused") and not holds(tmp_path, "other")
        assert sorted(path.name for path in tmp_path.iterdir()) == [".fused.lock", ".fused.lock.json"]
    assert not holds(tmp_path, "fused")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="sends SIGKILL")
def test_a_run_that_was_killed_locks_nobody_out(other_run, tmp_path):
    other_run.send_signal(signal.SIGKILL)
    other_run.wait()
    assert [*tmp_path.iterdir()]
    refuse_second_run(tmp_path, "fused")
    with only_run(tmp_path, "fused") as notes:
        assert notes == []
    assert list(tmp_path.iterdir()) == []


def test_an_error_frees_the_lock(tmp_path):
    with pytest.raises(KeyError), only_run(tmp_path, "fused"):
        raise KeyError
    with only_run(tmp_path, "fused"):
        pass


@pytest.mark.parametrize("kind", ["gone", "a file", "protected"])
def test_a_folder_that_is_taken_away_does_not_hide_how_the_run_ended(tmp_path, monkeypatch, kind):
    folder = tmp_path / "output"

    def protected(path, missing_ok=False):
        raise PermissionError(errno.EPERM, "Operation not permitted", str(path))

    with only_run(folder, "fused"):
        if kind == "protected":
            monkeypatch.setattr(Path, "unlink", protected)
        else:
            shutil.rmtree(folder)
        if kind == "a file":
            folder.write_text("", encoding="utf-8")
    monkeypatch.undo()
    if kind == "protected":
        with only_run(folder, "fused"):  # the lock is free, although its file is still there
            pass


def test_the_other_processes_of_a_run_share_the_lock_of_the_first(other_run, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    refuse_second_run(tmp_path, "fused")
    with only_run(tmp_path, "fused") as notes:
        assert notes == []


class NoLocks:
    """As on a network drive."""

    def __init__(self, *_, **__):
        pass

    def acquire(self, *_, **__):
        raise OSError(95, "Operation not supported")


@pytest.mark.parametrize("kind", [NoLocks, SoftFileLock])
def test_a_drive_without_locks_is_told(tmp_path, monkeypatch, kind):
    """A lock that is only a file, as filelock may use instead, would outlive a run that is killed."""
    monkeypatch.setattr(files, "FileLock", kind)
    with only_run(tmp_path, "fused") as (note,):
        assert "does not support file locks" in note and str(tmp_path) in note
        assert not holds(tmp_path, "fused")
    assert list(tmp_path.iterdir()) == []


def test_a_link_in_the_place_of_the_lock_is_not_followed(tmp_path):
    precious = tmp_path / "precious.txt"
    precious.write_text("mine", encoding="utf-8")
    (tmp_path / ".fused.lock").symlink_to(precious)
    with only_run(tmp_path, "fused"):
        pass
    assert precious.read_text(encoding="utf-8") == "mine"

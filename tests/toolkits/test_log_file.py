"""Log lines that the disk does not take wait for it."""

from __future__ import annotations

import errno
import json
import os

import pytest

from danceopd_ext.toolkits import log_file
from danceopd_ext.toolkits.log_file import LogFile


@pytest.fixture
def disk(monkeypatch):
    """`disk["room"]`: bytes that may still be written; None: any number. `disk["problem"]`: what it says otherwise."""
    state = {"room": None, "problem": errno.ENOSPC}
    real = os.write

    def write(file, data):
        if state["room"] is None:
            return real(file, data)
        if not state["room"]:
            raise OSError(state["problem"], os.strerror(state["problem"]))
        written = real(file, data[: state["room"]])
        state["room"] -= written
        return written

    monkeypatch.setattr(log_file.os, "write", write)
    return state


def steps(path) -> list[int]:
    return [json.loads(line)["step"] for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("room", [0, 5])
def test_lines_wait_until_there_is_room_again(tmp_path, disk, room):
    """Also if half a line still fitted: there is never one in the file."""
    said = []
    log = LogFile(tmp_path / "x.log.jsonl", 0, said.append)
    log.write({"step": 1})
    disk["room"] = room
    for step in (2, 3, 4):
        log.write({"step": step})
        assert steps(log.path) == [1]
    disk["room"] = None
    log.write({"step": 5})
    assert steps(log.path) == [1, 2, 3, 4, 5]
    log.close()
    (line,) = said
    assert "no space is left on the disk" in line and "Training goes on" in line and str(log.path) in line


def test_what_waits_at_the_end_is_written_or_told(tmp_path, disk):
    said = []
    log = LogFile(tmp_path / "x.log.jsonl", 0, said.append)
    disk["room"] = 0
    log.write({"step": 1})
    disk["room"] = None
    log.close()
    assert steps(log.path) == [1] and len(said) == 1

    log = LogFile(tmp_path / "y.log.jsonl", 0, said.append)
    disk["room"] = 0
    log.write({"step": 1})
    log.close()
    assert said[-1] == f"the log {log.path} lacks 1 lines: no space is left on the disk"


def test_each_reason_is_told_once(tmp_path, disk):
    said = []
    log = LogFile(tmp_path / "x.log.jsonl", 0, said.append)
    disk["room"] = 0
    for step, problem in enumerate([errno.ENOSPC, errno.ENOSPC, errno.EROFS, errno.EIO, errno.ENOSPC], 1):
        disk["problem"] = problem
        log.write({"step": step})
    assert [line.partition("written: ")[2].partition(".")[0] for line in said] == [
        "no space is left on the disk", "the disk is now read-only", "the disk reports an error",
    ]  # fmt: skip


def test_only_so_many_lines_wait(tmp_path, disk, monkeypatch):
    monkeypatch.setattr(log_file, "MOST_WAITING", 3)
    said = []
    log = LogFile(tmp_path / "x.log.jsonl", 0, said.append)
    disk["room"] = 0
    for step in range(1, 6):
        log.write({"step": step})
    disk["room"] = None
    log.close()
    assert steps(log.path) == [3, 4, 5]
    assert said[-1] == f"the log {log.path} lacks 2 lines"


def test_a_folder_that_is_removed_and_comes_back(tmp_path):
    said = []
    log = LogFile(tmp_path / "out" / "x.log.jsonl", 0, said.append)
    log.path.unlink()
    log.path.parent.rmdir()
    log.write({"step": 1})
    log.path.parent.mkdir()
    log.write({"step": 2})
    assert steps(log.path) == [1, 2]
    assert "the folder is gone" in said[0]


def test_a_resumed_run_drops_what_it_writes_again(tmp_path):
    path = tmp_path / "x.log.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n[3]\n{"st', encoding="utf-8")
    log = LogFile(path, 1, print)
    log.write({"step": 2})
    assert steps(path) == [1, 2]

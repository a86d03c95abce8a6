"""A result that the disk does not take goes to another name or folder, or waits."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

import pytest

from danceopd_ext import fallback_folders
from danceopd_ext.fallback_folders import NotSaved, save_anywhere, save_result

FULL = OSError(errno.ENOSPC, "No space left on device")
HELD = PermissionError(errno.EACCES, "in use")


@pytest.fixture
def places(tmp_path, monkeypatch):
    """The wanted, the working, the temporary and the home folder."""
    names = ("wanted", "working", "temporary", "home")
    for name in names:
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "working")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    return tmp_path


def writer(problem: Exception, *folders: str):
    """Writes a file, except in the folders with these names."""

    def write(path: Path) -> None:
        if path.parent.name in folders:
            raise problem
        path.write_text("whole", encoding="utf-8")

    return write


@pytest.mark.parametrize(
    ("full", "found"),
    [
        ((), "wanted"),
        (("wanted",), "working"),
        (("wanted", "working"), "temporary"),
        (("wanted", "working", "temporary"), "home"),
    ],
)
def test_the_first_folder_that_takes_it(places, full, found):
    wanted = places / "wanted" / "x.safetensors"
    placed = save_result(writer(FULL, *full), wanted, anywhere=True)
    assert placed.path == places / found / "x.safetensors"
    assert placed.path.read_text(encoding="utf-8") == "whole"
    told = placed.message(wanted)
    assert told.startswith(f"saved {placed.path}")
    assert ("no space is left on the disk" in told) == bool(full)


def test_only_the_wanted_folder_for_a_save_between(places):
    with pytest.raises(NotSaved, match=r"x\.safetensors cannot be saved .*wanted: no space is left") as error:
        save_result(writer(FULL, "wanted"), places / "wanted" / "x.safetensors")
    assert list(error.value.tried) == [places / "wanted"]


def test_a_file_that_is_open_gets_a_number(places):
    wanted = places / "wanted" / "x.safetensors"
    wanted.touch()

    def write(path: Path) -> None:
        if path == wanted:
            raise HELD
        path.write_text("whole", encoding="utf-8")

    placed = save_result(write, wanted)
    assert placed.path == places / "wanted" / "x-2.safetensors"
    assert "x.safetensors cannot be replaced" in placed.message(wanted)


def test_what_others_have_under_that_name_is_left_alone(places):
    (places / "working" / "x.safetensors").write_text("somebody's", encoding="utf-8")
    (places / "working" / "x-2.safetensors").symlink_to(places / "nothing")
    placed = save_result(writer(FULL, "wanted"), places / "wanted" / "x.safetensors", anywhere=True)
    assert placed.path == places / "working" / "x-3.safetensors"
    assert (places / "working" / "x.safetensors").read_text(encoding="utf-8") == "somebody's"


def test_a_fault_of_ours_is_not_hidden(places):
    with pytest.raises(ValueError, match="a fault"):
        save_result(writer(ValueError("a fault"), "wanted"), places / "wanted" / "x", anywhere=True)


def test_a_working_folder_that_is_gone_is_skipped(places):
    os.rmdir(places / "working")
    placed = save_result(writer(FULL, "wanted"), places / "wanted" / "x", anywhere=True)
    assert placed.path == places / "temporary" / "x"


ALL = ("wanted", "working", "temporary", "home")


@pytest.fixture
def clock(monkeypatch):
    """Time passes only while somebody sleeps; `clock[0]` is now."""
    now = [0.0]
    monkeypatch.setattr(fallback_folders.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(fallback_folders.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    return now


def freed(clock, when):
    """Every disk is full until then."""

    def write(path: Path) -> None:
        if clock[0] < when:
            raise FULL
        path.write_text("whole", encoding="utf-8")

    return write


@pytest.mark.parametrize("watched", [True, False])
def test_a_disk_that_somebody_frees_is_waited_for(places, clock, monkeypatch, watched):
    monkeypatch.setattr(fallback_folders, "has_terminal", lambda: watched)
    said = []
    placed = save_anywhere(freed(clock, 60), places / "wanted" / "x", said.append, lambda: False)
    assert placed.path == places / "wanted" / "x" and 60 <= clock[0] < 60 + 2 * fallback_folders.PAUSE
    (line,) = said
    assert all(str(places / name) in line for name in ALL)
    assert "Free some space" in line and ("press Ctrl-C to give up" if watched else "30 minutes") in line


def test_without_a_terminal_there_is_an_end(places, clock, monkeypatch):
    monkeypatch.setattr(fallback_folders, "has_terminal", lambda: False)
    with pytest.raises(NotSaved):
        save_anywhere(freed(clock, 1e9), places / "wanted" / "x", lambda _: None, lambda: False)
    assert fallback_folders.LONGEST_WAIT <= clock[0] < fallback_folders.LONGEST_WAIT + 2 * fallback_folders.PAUSE


def test_ctrl_c_gives_up(places, clock, monkeypatch):
    """As a flag, or raised."""
    monkeypatch.setattr(fallback_folders, "has_terminal", lambda: True)
    with pytest.raises(NotSaved):
        save_anywhere(freed(clock, 1e9), places / "wanted" / "x", lambda _: None, lambda: clock[0] > 100)
    assert clock[0] < 110

    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(fallback_folders.time, "sleep", interrupt)
    with pytest.raises(NotSaved):
        save_anywhere(freed(clock, 1e9), places / "wanted" / "x", lambda _: None, lambda: False)


def test_the_ctrl_c_that_led_to_the_save_does_not_give_it_up(places, clock, monkeypatch):
    monkeypatch.setattr(fallback_folders, "has_terminal", lambda: True)
    placed = save_anywhere(freed(clock, 60), places / "wanted" / "x", lambda _: None, lambda: True)
    assert placed.path.is_file()


def test_no_standard_input_is_no_terminal(monkeypatch):
    monkeypatch.setattr(fallback_folders.sys, "stdin", None)
    assert not fallback_folders.has_terminal()

"""Files and folders appear whole or not at all."""

import os

import pytest

from danceopd_ext import files
from danceopd_ext.files import remove, whole_file, whole_folder


def test_a_file_appears_when_it_is_complete(tmp_path):
    path = tmp_path / "new" / "file.txt"
    with whole_file(path) as part:
        part.write_text("half", encoding="utf-8")
        assert not path.exists()
        part.write_text("whole", encoding="utf-8")
    assert path.read_text(encoding="utf-8") == "whole"
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]


def test_an_error_leaves_the_old_file_and_no_rest(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old", encoding="utf-8")
    with pytest.raises(KeyError), whole_file(path) as part:
        part.write_text("new", encoding="utf-8")
        raise KeyError
    assert path.read_text(encoding="utf-8") == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]


@pytest.mark.parametrize("exists", [False, True])
def test_a_folder_replaces_the_old_one_when_it_is_complete(tmp_path, exists):
    path = tmp_path / "state"
    if exists:
        path.mkdir()
        (path / "old").write_text("old", encoding="utf-8")
    with whole_folder(path) as part:
        (part / "new").write_text("new", encoding="utf-8")
        assert [p.name for p in path.iterdir()] == ["old"] if exists else not path.exists()
    assert [p.name for p in path.iterdir()] == ["new"]
    assert [p.name for p in tmp_path.iterdir()] == ["state"]


def test_an_error_leaves_the_old_folder(tmp_path):
    path = tmp_path / "state"
    with whole_folder(path) as part:
        (part / "a").write_text("1", encoding="utf-8")
    with pytest.raises(KeyError), whole_folder(path) as part:
        (part / "b").write_text("2", encoding="utf-8")
        raise KeyError
    assert [p.name for p in path.iterdir()] == ["a"]
    assert [p.name for p in tmp_path.iterdir()] == ["state"]


def test_permissions_are_those_of_any_new_file(tmp_path):
    with whole_file(tmp_path / "a") as part:
        part.touch(mode=0o600)
    (tmp_path / "b").touch()
    assert os.stat(tmp_path / "a").st_mode == os.stat(tmp_path / "b").st_mode


@pytest.fixture
def held(monkeypatch):
    """As on Windows: `held(name, times)` lets so many renames to that name fail; returns the seconds of each wait."""
    real, left, waited = os.replace, {}, []

    def replace(source, target):
        name = os.path.basename(target)
        if left.get(name, 0):
            left[name] -= 1
            raise PermissionError(13, "in use", str(target))
        return real(source, target)

    def held(name, times):
        left[name] = times
        return waited

    monkeypatch.setattr(files, "HELD_OPEN", True)
    monkeypatch.setattr(files.os, "replace", replace)
    monkeypatch.setattr(files.time, "sleep", waited.append)
    monkeypatch.setattr(files.time, "monotonic", lambda: sum(waited))
    return held


def test_a_file_that_is_open_for_a_moment_is_waited_for(tmp_path, held):
    waited = held("file.txt", 3)
    with whole_file(tmp_path / "file.txt") as part:
        part.write_text("new", encoding="utf-8")
    assert (tmp_path / "file.txt").read_text(encoding="utf-8") == "new"
    assert len(waited) == 3


def test_a_file_that_stays_open_is_told_after_a_while(tmp_path, held):
    (tmp_path / "file.txt").write_text("old", encoding="utf-8")
    waited = held("file.txt", 1000)
    with pytest.raises(PermissionError), whole_file(tmp_path / "file.txt") as part:
        part.write_text("new", encoding="utf-8")
    assert sum(waited) == pytest.approx(files.PATIENCE, abs=0.2)
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]


def test_a_system_that_replaces_open_files_is_not_waited_for(tmp_path, held, monkeypatch):
    waited = held("file.txt", 1)
    monkeypatch.setattr(files, "HELD_OPEN", False)
    with pytest.raises(PermissionError), whole_file(tmp_path / "file.txt") as part:
        part.touch()
    assert not waited


def test_the_old_folder_comes_back_where_the_new_one_cannot(tmp_path, held):
    path = tmp_path / "state"
    with whole_folder(path) as part:
        (part / "old").touch()
    real = files.os.replace

    def replace(source, target):
        if target == path and "new" in os.listdir(source):
            raise PermissionError(13, "in use", str(target))
        return real(source, target)

    files.os.replace = replace  # `held` puts it back
    with pytest.raises(PermissionError), whole_folder(path) as part:
        (part / "new").touch()
    assert [p.name for p in path.iterdir()] == ["old"]
    assert [p.name for p in tmp_path.iterdir()] == ["state"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_removing_what_is_open(tmp_path, monkeypatch, kind):
    """It stays whole, and is gone at the next try."""
    path = tmp_path / "x"
    if kind == "folder":
        path.mkdir()
        (path / "a").touch()
    else:
        path.touch()

    def in_use(*_, **__):
        raise PermissionError(13, "in use")

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", in_use)
        patch.setattr(files.Path, "unlink", in_use)
        remove(path)
    assert path.exists() and (kind == "file" or [p.name for p in path.iterdir()] == ["a"])
    remove(path)
    assert not [*tmp_path.iterdir()]

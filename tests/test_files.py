"""Files and folders appear whole or not at all."""

import os

import pytest

from danceopd_ext.files import whole_file, whole_folder


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

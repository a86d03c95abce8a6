"""Files and folders appear whole or not at all."""

import errno
import os
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from danceopd_ext import files
from danceopd_ext.errors import UserError
from danceopd_ext.files import (
    only_writer,
    refuse_links,
    remove,
    remove_leftovers,
    whole_file,
    whole_folder,
    whole_named_file,
)


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


# --- what killed processes leave


def leave(folder, *names):
    """Half written files of these final names, as whole_file and whole_folder would leave them."""
    left = []
    for name in names:
        part = files._temporary_name(folder / name)
        part.mkdir() if name.endswith("-state") else part.touch()
        left.append(part)
    return left


def test_what_a_killed_process_left_is_removed(tmp_path):
    left = leave(tmp_path, "a.safetensors", "a-state", "b.safetensors")
    others = [tmp_path / name for name in (".a.safetensors.part", ".x.1a2b3c4d.part", "a.danceopd.part", "a.txt")]
    for other in others:
        other.touch()
    assert remove_leftovers(tmp_path, lambda name: name.startswith("a")) == 2
    assert [path.exists() for path in left] == [False, False, True]
    assert all(other.exists() for other in others)
    assert remove_leftovers(tmp_path) == 1
    assert remove_leftovers(tmp_path / "missing") == 0


def test_the_names_in_use_are_those_that_are_removed(tmp_path):
    with suppress(KeyError), whole_file(tmp_path / "a.png") as part:
        part.touch()
        assert files.TEMPORARY.fullmatch(part.name)["name"] == "a.png"
        raise KeyError
    with suppress(KeyError), whole_named_file(tmp_path / "a.png") as part:
        part.touch()
        assert part.name == "a.png" and files.TEMPORARY.fullmatch(part.parent.name)["name"] == "a.png"
        raise KeyError
    with suppress(KeyError), whole_folder(tmp_path / "a-state") as part:
        assert files.TEMPORARY.fullmatch(part.name)["name"] == "a-state"
        raise KeyError
    assert not [*tmp_path.iterdir()]


def test_a_writer_that_looks_at_the_ending(tmp_path):
    with whole_named_file(tmp_path / "new" / "a.safetensors") as part:
        part.write_text("whole", encoding="utf-8")
        assert not (tmp_path / "new" / "a.safetensors").exists()
    assert (tmp_path / "new" / "a.safetensors").read_text(encoding="utf-8") == "whole"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.safetensors"]


def test_one_writer_at_a_time_and_it_removes_what_others_left(tmp_path):
    """While one process fills a folder, another waits, and so never removes what the first is writing."""
    said, order = [], []
    folder = tmp_path / "cache"

    def second():
        with only_writer(folder, said.append):
            order.append("second")

    with only_writer(folder, said.append):
        (part,) = leave(folder, "entry")
        thread = threading.Thread(target=second)
        thread.start()
        while not said:
            thread.join(0.01)
        assert part.exists()
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
    assert said == [f"waiting for another run to finish writing to {folder}"]
    assert not part.exists()


def test_a_disk_without_locks_keeps_what_is_there(tmp_path, monkeypatch):
    def no_locks(*_, **__):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(files.FileLock, "acquire", no_locks)
    (part,) = leave(tmp_path, "entry")
    with only_writer(tmp_path, print):
        assert part.exists()
    assert part.exists()


@pytest.mark.parametrize("left", [False, True])
def test_a_lock_that_a_killed_run_leaves_behind_is_not_waited_for(tmp_path, monkeypatch, left):
    """Such a one is all that filelock has on some disks."""
    monkeypatch.setattr(files, "FileLock", files.SoftFileLock)
    (part,) = leave(tmp_path, "entry")
    if left:
        (tmp_path / files.LOCK).write_text("1\nanother-computer\n", encoding="utf-8")
    with only_writer(tmp_path, print):
        assert part.exists()
    assert (tmp_path / files.LOCK).exists() == left


def test_the_lock_is_not_written_through_a_link(tmp_path):
    (tmp_path / "mine").write_text("mine", encoding="utf-8")
    (tmp_path / files.LOCK).symlink_to(tmp_path / "mine")
    with only_writer(tmp_path, print):
        pass
    assert (tmp_path / "mine").read_text(encoding="utf-8") == "mine"


# --- links


def test_a_link_is_replaced_and_not_written_through(tmp_path):
    """A file and a folder: what the link points to stays as it is."""
    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a").touch()
    (tmp_path / "x").symlink_to(tmp_path / "mine.txt")
    (tmp_path / "x-state").symlink_to(tmp_path / "mine")
    with whole_file(tmp_path / "x") as part:
        part.write_text("new", encoding="utf-8")
    with whole_folder(tmp_path / "x-state") as part:
        (part / "b").touch()
    assert (tmp_path / "mine.txt").read_text(encoding="utf-8") == "mine"
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["a"]
    assert not (tmp_path / "x").is_symlink() and not (tmp_path / "x-state").is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "mine.txt", "x", "x-state"]


def test_a_link_is_removed_and_not_what_it_points_to(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a").touch()
    (tmp_path / "x").symlink_to(tmp_path / "mine")
    remove(tmp_path / "x")
    assert [path.name for path in tmp_path.rglob("*")] == ["mine", "a"]


@pytest.mark.parametrize("target", ["there", "nowhere"])
def test_a_link_is_refused_by_its_name(tmp_path, target):
    (tmp_path / "there").mkdir()
    (tmp_path / "x").symlink_to(tmp_path / target)
    refuse_links([tmp_path, tmp_path / "there", tmp_path / "missing"])
    with pytest.raises(UserError, match=rf"x is a link to .*{target}, and the run would write there\. Remove it\."):
        refuse_links([tmp_path / "x"], "Remove it")


# --- disks that lack something


@pytest.mark.parametrize(("module", "name"), [(os, "fsync"), (Path, "chmod")])
def test_a_disk_that_cannot_flush_or_has_no_permissions(tmp_path, monkeypatch, module, name):
    """As network drives and those of Windows' own form: the file is written all the same."""

    def refuse(*_):
        raise OSError(errno.EINVAL, "Invalid argument") if name == "fsync" else PermissionError(errno.EPERM, "no")

    monkeypatch.setattr(module, name, refuse)
    with whole_file(tmp_path / "a") as part:
        part.write_text("whole", encoding="utf-8")
    assert (tmp_path / "a").read_text(encoding="utf-8") == "whole"


def test_a_free_name():
    names = {"x.safetensors": "x-2.safetensors", "x.1-state": "x.1-state-2", "y.1.safetensors": "y.1-2.safetensors"}
    assert {name: files.free_name(Path("nowhere") / name).name for name in names} == names

"""Edit data on the hub."""

import hashlib
from types import SimpleNamespace

import huggingface_hub
import pyarrow
import pyarrow.parquet as parquet
import pytest

from danceopd_ext.cli import run
from tests.data.omniedit.rows import table, with_pictures, write_data


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """Stands in for the hub: the dataset some/edits has the files of a folder. Returns it, and what was fetched."""
    folder, fetched = tmp_path / "hub", []
    (folder / "data").mkdir(parents=True)

    def list_repo_tree(self, name, repo_type=None, recursive=False):
        assert (repo_type, recursive) == ("dataset", True)
        if name != "some/edits":
            raise OSError(f"404: {name} not found\nRequest ID 7")
        for path in folder.rglob("*"):
            blob = {"blob_id": hashlib.sha1(path.read_bytes()).hexdigest()} if path.is_file() else {}
            yield SimpleNamespace(path=path.relative_to(folder).as_posix(), **blob)

    def hf_hub_download(name, file, repo_type=None):
        assert (name, repo_type) == ("some/edits", "dataset")
        fetched.append(file)
        if not (folder / file).is_file():
            raise OSError("connection lost")
        return str(folder / file)

    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_tree", list_repo_tree)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hf_hub_download)
    return folder, fetched


def fill(folder, rows, *names):
    """Each row in a file of its own."""
    for row, name in zip(rows, names, strict=True):
        parquet.write_table(pyarrow.Table.from_pylist([row]), folder / "data" / f"{name}.parquet")


def test_files_of_the_training_split_are_fetched_as_they_are_needed(omniedit, hub, tmp_path):
    folder, fetched = hub
    (folder / "README.md").write_text("edits")
    fill(folder, with_pictures(write_data(tmp_path)), "train-2", "train-1", "dev-0", "train-0", "train-3")
    omniedit.main(["some/edits", "--out", str(tmp_path / "out"), "--limit", "1"])
    assert fetched == ["data/train-0.parquet", "data/train-1.parquet"]
    assert [table(tmp_path / "out" / f"{r}.csv")[0]["prompt"] for r in ("local", "global")] == ["edit 3", "edit 1"]
    (folder / "README.md").write_text("edits, said in other words")
    omniedit.main(["some/edits", "--out", str(tmp_path / "out")])
    assert fetched[2:] == [f"data/train-{n}.parquet" for n in range(4)], "no other split"


def test_a_dataset_without_splits_is_read_whole_and_another_version_of_it_is_other_data(omniedit, hub, tmp_path):
    folder, fetched = hub
    rows = with_pictures(write_data(tmp_path))
    fill(folder, rows[:2], "b", "a")
    omniedit.main(["some/edits", "--out", str(tmp_path / "out")])
    assert fetched == ["data/a.parquet", "data/b.parquet"]
    fill(folder, rows[2:3], "b")
    assert run(omniedit.main, ["some/edits", "--out", str(tmp_path / "out")]) == 2
    assert len(fetched) == 2


def test_what_the_hub_does_not_give_is_told_in_one_line(omniedit, hub, tmp_path, capsys):
    def told(name):
        assert run(omniedit.main, [name, "--out", str(tmp_path / "out")]) == 2
        return capsys.readouterr().err.split("error: ")[1].strip()

    gone = "nobody/gone is not a file or folder here, and the hub does not give it (404: nobody/gone not found)."
    assert told("nobody/gone") == gone
    assert told("some/edits") == "some/edits: the dataset has no .parquet files."


def test_a_download_that_fails_is_told_and_what_is_there_stays(omniedit, hub, tmp_path, monkeypatch, capsys):
    folder, _ = hub
    fill(folder, with_pictures(write_data(tmp_path))[:2], "train-0", "train-1")
    fetch = huggingface_hub.hf_hub_download

    def lost(name, file, repo_type=None):
        return fetch(name, "gone" if "train-1" in file else file, repo_type)

    with monkeypatch.context() as patch:
        patch.setattr(huggingface_hub, "hf_hub_download", lost)
        assert run(omniedit.main, ["some/edits", "--out", str(tmp_path / "out")]) == 2
    assert "some/edits/data/train-1.parquet: the hub does not give it (connection lost)" in capsys.readouterr().err
    assert (tmp_path / "out/local/source/000000.png").is_file()
    omniedit.main(["some/edits", "--out", str(tmp_path / "out")])
    assert len(table(tmp_path / "out" / "global.csv")) == 1

"""The benchmark's files: what is written is what the data room, and any toolkit, reads."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from danceopd_ext.data.prompts import read_prompts
from danceopd_ext.demo.edits import EDIT_KINDS
from danceopd_ext.demo.route_files import write_edits, write_prompts, write_route_data
from danceopd_ext.demo.world import render
from danceopd_ext.errors import UserError


def test_edits_on_disk_are_read_back(tmp_path):
    edits = EDIT_KINDS["subject add"].sample_many(12, "train", seed=0)
    write_edits(tmp_path / "edits", edits)
    folder = tmp_path / "edits"
    names = sorted(file.name for file in (folder / "conditioning").iterdir())
    assert names == [f"{number:05}.png" for number in range(12)]
    assert sorted(file.name for file in (folder / "images").glob("*.png")) == names
    rows = [json.loads(line) for line in (folder / "edits.jsonl").read_text(encoding="utf-8").splitlines()]
    with open(folder / "edits.csv", encoding="utf-8", newline="") as file:
        assert list(csv.DictReader(file)) == rows
    for edit, row, name in zip(edits, rows, names, strict=True):
        assert list(row) == ["prompt", "source", "target"]
        assert row["prompt"] == edit.instruction
        assert row["target"] == f"images/{name}" and row["source"] == f"conditioning/{name}"
        assert (np.asarray(Image.open(folder / row["source"])) == render(edit.source)).all()
        assert (np.asarray(Image.open(folder / row["target"])) == render(edit.target)).all()
        assert (folder / row["target"]).with_suffix(".txt").read_text(encoding="utf-8") == f"{edit.instruction}\n"
    for name in ("edits.jsonl", "edits.csv"):
        items, notes = read_prompts(folder / name, [(32, 32)], multiple=16)
        assert [(item.text, item.size) for item in items] == [(edit.instruction, (32, 32)) for edit in edits]
        assert [item.source_images for item in items] == [(folder / row["source"],) for row in rows]
        assert [item.target.path for item in items] == [folder / row["target"] for row in rows]
        assert notes == []


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    for write in (
        lambda: write_edits(tmp_path, EDIT_KINDS["colour alter"].sample_many(1, "train", seed=0)),
        lambda: write_route_data(tmp_path, "train", 1),
    ):
        with pytest.raises(UserError, match="not an empty folder"):
            write()
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]
    write_edits(tmp_path / "new", EDIT_KINDS["colour alter"].sample_many(1, "train", seed=0))
    assert (tmp_path / "new" / "edits.csv").exists()


def test_route_data_has_every_kind_equally_often(tmp_path):
    write_prompts(tmp_path / "some.txt", ["a circle", "a cross"])
    assert (tmp_path / "some.txt").read_text(encoding="utf-8") == "a circle\na cross\n"
    for split in ("train", "test"):
        write_route_data(tmp_path / split, split, count=3)
    for split in ("train", "test"):
        folder = tmp_path / split
        captions = (folder / "text_to_image.txt").read_text(encoding="utf-8").splitlines()
        assert len(captions) == 18
        files = sorted((folder / "text_to_image" / "images").glob("*.txt"))
        assert [file.read_text(encoding="utf-8").strip() for file in files] == captions
        assert len(list((folder / "local_edit" / "images").glob("*.png"))) == 12
        assert len((folder / "global_edit" / "edits.jsonl").read_text(encoding="utf-8").splitlines()) == 6
    train, test = (set((tmp_path / s / "text_to_image.txt").read_text().splitlines()) for s in ("train", "test"))
    assert not train & test

"""The files of the routes: pictures of the training split, beside prompts that the data room reads."""

import numpy as np
from PIL import Image

from danceopd_ext.data.prompts import read_prompts
from danceopd_ext.demo.edits import EDIT_KINDS
from danceopd_ext.demo.omni_draw import halved
from danceopd_ext.demo.omni_score import held_out_prompts
from danceopd_ext.demo.route_files import route_file, write_route
from danceopd_ext.demo.scene import describe, scene_of
from danceopd_ext.demo.splits import split_of
from danceopd_ext.demo.world import read_cells, read_scenes, render


def pictures(folder, rows, column):
    return halved(np.stack([np.asarray(Image.open(folder / row[column])) for row in rows]))


def rows_of(file):
    head, *lines = file.read_text(encoding="utf-8").splitlines()
    return [dict(zip(head.split(","), line.split(","), strict=True)) for line in lines]


def test_edit_routes_have_sources_and_targets_of_their_scope(tmp_path):
    every = rows_of(write_route(tmp_path, "edit", 3))
    local = rows_of(write_route(tmp_path, "local", 3))
    other = rows_of(write_route(tmp_path, "global", 3))
    assert len(every) == 3 * len(EDIT_KINDS)
    assert {row["prompt"] for row in every} == {row["prompt"] for row in (*local, *other)}
    assert all("background" in row["prompt"] or "it" in row["prompt"] or "shapes" in row["prompt"] for row in other)
    before, after = (pictures(tmp_path / "edit-3", every, column) for column in ("source", "target"))
    assert (before != after).any(axis=(1, 2, 3)).all()
    scenes = [scene_of(cells) for cells in read_cells(np.concatenate([before, after]))]
    assert {split_of(describe(scene)) for scene in scenes} == {"train"}
    with Image.open(tmp_path / "edit-3" / every[0]["source"]) as picture:
        assert picture.size == (64, 64)


def test_prompts_are_of_the_training_split_and_a_style_draws_outlines(tmp_path):
    plain, styled = (rows_of(write_route(tmp_path, route, 4)) for route in ("t2i", "style"))
    assert [row["prompt"] for row in plain] == [row["prompt"] for row in styled]
    assert not {row["prompt"] for row in plain} & {prompt.caption for prompt in held_out_prompts(64)}
    for folder, rows, hollow in (("t2i-4", plain, False), ("style-4", styled, True)):
        scenes = [scene for scene, _ in read_scenes(pictures(tmp_path / folder, rows, "target"))]
        assert all(item.hollow == hollow for scene in scenes for item in scene.objects)


def test_data_that_is_there_is_not_made_again(tmp_path):
    file = write_route(tmp_path, "t2i", 1)
    file.write_text("prompt\nmine\n", encoding="utf-8")
    assert write_route(tmp_path, "t2i", 1).read_text(encoding="utf-8") == "prompt\nmine\n"


def test_edits_on_disk_are_read_back(tmp_path):
    edits = [edit for kind in EDIT_KINDS.values() for edit in kind.sample_many(2, "train", 0)]
    file = write_route(tmp_path, "edit", 2)
    items, notes = read_prompts(file, [(64, 64)], multiple=16)
    assert notes == []
    assert [(item.text, item.size) for item in items] == [(edit.instruction, (64, 64)) for edit in edits]
    sources = np.stack([np.asarray(Image.open(item.source_images[0])) for item in items])
    assert np.array_equal(halved(sources), np.stack([render(edit.source) for edit in edits]))
    assert all(item.picture.path.is_file() for item in items)


def test_a_route_without_targets_is_the_same_otherwise(tmp_path):
    file, whole = write_route(tmp_path, "edit", 2, targets=False), write_route(tmp_path, "edit", 2)
    assert file == route_file(tmp_path, "edit", 2, targets=False) != whole
    assert [path.name for path in file.parent.iterdir() if path.is_dir()] == ["sources"]
    assert rows_of(file) == [{"prompt": row["prompt"], "source": row["source"]} for row in rows_of(whole)]
    assert all((file.parent / row["source"]).is_file() for row in rows_of(file))

"""Data whose target pictures the routes' teachers drew."""

from __future__ import annotations

import csv
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from danceopd_ext.demo.omni_draw import draw, encode_edits, halved
from danceopd_ext.demo.pretrain.teachers import use_loras
from danceopd_ext.demo.route_files import write_route
from danceopd_ext.reproduce.budgets import BUDGETS
from danceopd_ext.reproduce.drawn_targets import SEED, with_drawn_targets
from danceopd_ext.reproduce.evaluate import load
from danceopd_ext.reproduce.presets import plan_run
from danceopd_ext.reproduce.tables import T2I_EDIT, Row

SMOKE = BUDGETS["smoke"]


def rows_of(file):
    with open(file, encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def pictures(file, column):
    return np.stack([np.asarray(Image.open(file.parent / row[column])) for row in rows_of(file)])


def test_targets_are_what_the_teacher_draws_for_instruction_and_source(pretrained, tmp_path):
    world = write_route(tmp_path, "edit", 1)
    drawn = with_drawn_targets(world, {"lora": "edit"}, pretrained, 2)
    assert rows_of(drawn) == rows_of(world)
    assert np.array_equal(pictures(drawn, "source"), pictures(world, "source"))
    pipeline = load(str(pretrained.pipeline), None)
    use_loras(pipeline, {"edit": pretrained.file("edit")}, {"edit": 1.0})
    items = encode_edits(pipeline, [row["prompt"] for row in rows_of(world)], halved(pictures(world, "source")))
    expected = draw(pipeline, items, seed=SEED, steps=2)
    use_loras(pipeline, {}, {})
    assert np.array_equal(halved(pictures(drawn, "target")), expected)
    assert (pictures(drawn, "target") != pictures(world, "target")).any(axis=(1, 2, 3)).all()


@pytest.mark.parametrize("teacher", [{}, {"lora": "edit"}, {"checkpoint": "style"}])
def test_every_teacher_draws_its_own_and_is_asked_once(pretrained, tmp_path, teacher):
    world = write_route(tmp_path, "t2i", 1)
    drawn = with_drawn_targets(world, teacher, pretrained, 2)
    others = [
        with_drawn_targets(world, other, pretrained, 2) for other in ({}, {"lora": "local_edit"}) if other != teacher
    ]
    assert all((pictures(drawn, "target") != pictures(other, "target")).any() for other in others)
    drawn.write_text("prompt\nmine\n", encoding="utf-8")
    assert with_drawn_targets(world, teacher, pretrained, 2).read_text(encoding="utf-8") == "prompt\nmine\n"


def test_a_run_with_them_is_another_run_with_its_own_data(pretrained, tmp_path):
    row = Row("joint training", teachers=T2I_EDIT, keys={"method": "joint"})
    plain, drawn = (
        plan_run(row, 1, replace(SMOKE, targets=targets), pretrained, tmp_path) for targets in ("world", "teacher")
    )
    assert plain.folder != drawn.folder
    assert plain.prompts.keys() == drawn.prompts.keys() and not set(plain.prompts.values()) & set(
        drawn.prompts.values()
    )
    assert drawn.prompts["edit"] in drawn.toml()

import numpy as np
import pytest

from danceopd_ext.cli import run
from danceopd_ext.demo.edits import EDIT_KINDS
from danceopd_ext.demo.world import render
from danceopd_ext.reproduce.repeats import Repeats, chosen_edits, main, repeats_of


@pytest.fixture(scope="module")
def edits():
    return EDIT_KINDS["colour alter"].sample_many(3, "test", 5)


def test_of_faults_that_move_the_median_is_free(edits):
    """The first edit is always right, the second wrong in one drawing of three, the third in all."""
    right = np.stack([render(edit.target) for edit in edits])
    left = np.stack([render(edit.source) for edit in edits])  # a copy of the source: scores 0
    drawings = np.stack([right, right, right])
    drawings[1, 1], drawings[:, 2] = left[1], left[2]
    expected = Repeats(single=(3 + 2 + 0) / 9, median=2 / 3, always=1 / 3, sometimes=1 / 3, never=1 / 3)
    assert repeats_of(edits, drawings) == expected


def test_a_split_is_that_of_the_tables():
    train, test = (chosen_edits(split, 2) for split in ("train", "test"))
    assert [edit.kind for edit in train] == [edit.kind for edit in test] == [kind for kind in EDIT_KINDS for _ in "ab"]
    assert not set(train) & set(test)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--lora", "gone.safetensors"], "--lora gone.safetensors: write NAME=FILE"),
        (["--lora", "x=gone.safetensors"], "an existing .safetensors file"),
        (["--split", "train", "--edits", "501"], "--edits 501: only 500 training examples"),
    ],
)
def test_wrong_arguments_end_with_a_message(capsys, arguments, message):
    assert run(main, arguments) == 2
    assert message in capsys.readouterr().err


def test_the_demos_teacher_is_drawn_again(capsys):
    main(["--edits", "1", "--noises", "1"])
    header, _, line = capsys.readouterr().out.split("\n")[2:5]
    assert header.startswith("| model | one drawing | median of them |") and line.startswith("| edit source | ")
    single, median = line.split(" | ")[1:3]
    assert single == median, "of one drawing the median is itself"
    assert float(single) > 0.5

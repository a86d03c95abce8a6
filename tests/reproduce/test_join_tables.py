"""Rows that were made apart are the table that is made at once."""

import json

import pytest
from PIL import Image

from danceopd_ext.cli import run as exit_code
from danceopd_ext.reproduce.command import main as reproduce
from danceopd_ext.reproduce.join_tables import main

FIRST, SECOND = ["joint training", "DanceOPD"], ["weight merge", "off-policy"]


@pytest.fixture
def made(pretrained, here, tmp_path):
    def made(name, rows, *more):
        words = ["--budget", "smoke", "--jobs", "1", "--seeds", "1", "--sources", str(pretrained.folder)]
        folder = tmp_path / name
        places = ["--out", str(tmp_path / "out"), "--results", str(folder)]
        reproduce(["composition", *words, *places, "--only", *rows, *more], start=here)
        return folder

    return made


def test_joined_rows_are_the_table_that_was_made_at_once(made, capsys):
    whole, one, other = made("whole", [*FIRST, *SECOND]), made("one", FIRST), made("other", SECOND)
    widths = [Image.open(folder / "composition-grid.png").width for folder in (one, other)]
    capsys.readouterr()
    main(["composition", str(one), str(other)])
    assert f"table    {one / 'composition.md'}" in capsys.readouterr().out
    for file in ("composition.csv", "composition.md", "README.md"):
        assert (one / file).read_text(encoding="utf-8") == (whole / file).read_text(encoding="utf-8"), file
    assert (one / "composition-marks.npz").read_bytes() == (whole / "composition-marks.npz").read_bytes()
    facts, expected = (json.loads((folder / "composition.json").read_text()) for folder in (one, whole))
    assert facts.pop("training_hours") == pytest.approx(expected.pop("training_hours"), abs=1e-6)
    assert facts == expected
    assert Image.open(one / "composition-grid.png").width == sum(widths)


def test_tables_that_cannot_be_compared_stay_apart(made, tmp_path, capsys):
    one, other = made("one", FIRST), made("other", SECOND, "--set", "learning_rate=1e-3")
    before = {path: path.read_bytes() for path in one.iterdir()}
    for more, message in (
        (other, "other was made with set = {'learning_rate': 0.001}"),
        (tmp_path, "does not contain the table"),
    ):
        assert exit_code(main, ["composition", str(one), str(more)]) == 2
        assert message in capsys.readouterr().err
    table = (one / "composition.csv").read_text(encoding="utf-8")
    spoilt = tmp_path / "spoilt"
    spoilt.mkdir()
    for path in one.iterdir():
        (spoilt / path.name).write_bytes(path.read_bytes())
    lines = table.split("\n")
    lines[-2] = lines[-2].rpartition(",")[0] + ",0.77"
    (spoilt / "composition.csv").write_text("\n".join(lines), encoding="utf-8")
    assert exit_code(main, ["composition", str(one), str(spoilt)]) == 2
    assert '"DanceOPD" has different scores in' in capsys.readouterr().err
    assert {path: path.read_bytes() for path in one.iterdir()} == before

import shlex
import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet as parquet
import pytest
import toml
from PIL import Image

from danceopd_ext.cli import run
from danceopd_ext.data.dataset_toml import read_dataset_config
from danceopd_ext.errors import UserError
from tests.data.omniedit.rows import table, with_pictures, write_data

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def test_edits_are_split_as_the_paper_does_and_keep_source_target_and_instruction(omniedit, tmp_path, capsys):
    out = tmp_path / "out"
    omniedit.main([str(write_data(tmp_path)), "--out", str(out)])
    local, whole = table(out / "local.csv"), table(out / "global.csv")
    assert [row["prompt"] for row in local] == ["edit 0", "edit 3"]
    assert [row["prompt"] for row in whole] == ["edit 1", "edit 2", "edit 4"]
    assert local[1] == {"prompt": "edit 3", "source": "local/source/000001.png", "target": "local/target/000001.png"}
    assert Image.open(out / local[1]["source"]).getpixel((0, 0)) == (13, 0, 0)
    assert Image.open(out / local[1]["target"]).getpixel((0, 0)) == (203, 0, 0)
    assert (out / "local/target/000001.txt").read_text(encoding="utf-8") == "edit 3\n"
    assert "local: 2 edits" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["out", "O'Brien's edits", "été 😀 {0}"])
@pytest.mark.parametrize("parser", [toml, tomllib])
def test_the_dataset_file_reads_with_both_parsers(omniedit, tmp_path, capsys, name, parser):
    out = tmp_path / name
    omniedit.main([str(write_data(tmp_path)), "--out", str(out)])
    printed = capsys.readouterr().out.rstrip().rpartition("\n")[2]
    assert parser.loads(printed) == {"dataset_config": (out / "dataset.toml").as_posix()}
    subsets = parser.loads((out / "dataset.toml").read_text(encoding="utf-8"))["datasets"][0]["subsets"]
    assert [s["custom_attributes"]["teacher"] for s in subsets] == ["local", "global"]
    for subset in subsets:
        targets, sources = Path(subset["image_dir"]), Path(subset["conditioning_data_dir"])
        assert {p.stem for p in targets.glob("*.png")} == {p.stem for p in sources.glob("*.png")} != set()


def test_the_dataset_file_is_the_native_trainers(omniedit, tmp_path):
    """With teachers of the routes' names: each edit with its source, and its target for methods that learn from it."""
    out = tmp_path / "out"
    omniedit.main([str(write_data(tmp_path)), "--out", str(out)])
    preset = {"resolution": [[256, 256]]}
    routes, notes = read_dataset_config(out / "dataset.toml", ["base", "local", "global"], preset)
    assert {route: len(items) for route, items in routes.items()} == {"local": 2, "global": 3}
    edit = routes["local"][1]
    assert edit.text == "edit 3" and not notes
    assert edit.size == (256, 256), "the preset's resolution, as the file says none"
    assert [path.resolve() for path in edit.source_images] == [(out / "local/source/000001.png").resolve()]
    assert edit.picture.path.resolve() == (out / "local/target/000001.png").resolve()


def test_the_help_says_what_reads_it_and_shows_a_whole_command(omniedit):
    shown = omniedit.parser().format_help()
    assert "sd-scripts" not in shown
    assert "teachers named `local` and `global`" in shown and "control_directory" in shown
    *_, command, _ = shown.rstrip().split("\n")
    words = shlex.split(command)
    assert words[:2] == ["python", "scripts/omniedit_routes.py"]
    assert omniedit.parser().parse_args(words[2:]).limit == 2000


def test_a_limit_holds_for_each_kind_and_a_task_can_be_moved(omniedit, tmp_path):
    out = tmp_path / "out"
    omniedit.main([str(write_data(tmp_path)), "--out", str(out), "--limit", "1", "--task", "env=local"])
    assert [row["prompt"] for row in table(out / "local.csv")] == ["edit 0"]
    assert [row["prompt"] for row in table(out / "global.csv")] == ["edit 1"]


def test_parquet_with_pictures_inside_gives_the_same(omniedit, tmp_path):
    rows = with_pictures(write_data(tmp_path))
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "train-0.parquet")
    omniedit.main([str(tmp_path / "train-0.parquet"), "--out", str(tmp_path / "out")])
    assert [row["prompt"] for row in table(tmp_path / "out" / "global.csv")] == ["edit 1", "edit 2", "edit 4"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"src_img": "gone.png"}, '"src_img": .*gone.png: picture not found'),
        ({"edited_img": "rows.jsonl"}, '"edited_img" is not a picture'),
        ({"edited_prompt_list": []}, "has no instruction"),
        ({"task": None}, '"task" is missing'),
        ({"task": 5}, '"task" is 5, which is not text'),
    ],
)
def test_a_broken_row_is_named(omniedit, tmp_path, change, message):
    with pytest.raises(UserError, match=message) as caught:
        omniedit.main([str(write_data(tmp_path, **change)), "--out", str(tmp_path / "out")])
    assert "rows.jsonl, line 1" in str(caught.value)


def test_broken_rows_are_left_out_where_that_is_asked_for(omniedit, tmp_path, capsys):
    """The next of the same kind takes the number, and counts for the limit."""
    path = write_data(tmp_path, src_img="gone.png")
    with pytest.raises(UserError, match="--skip_broken"):
        omniedit.main([str(path), "--out", str(tmp_path / "out")])
    omniedit.main([str(path), "--out", str(tmp_path / "out"), "--limit", "1", "--skip_broken"])
    assert "gone.png: picture not found" in "".join(capsys.readouterr())
    assert [row["prompt"] for row in table(tmp_path / "out" / "local.csv")] == ["edit 3"]
    assert [row["prompt"] for row in table(tmp_path / "out" / "global.csv")] == ["edit 1"]


@pytest.mark.parametrize("limit", ["0", "-1", "all"])
def test_a_limit_is_a_positive_number(omniedit, tmp_path, capsys, limit):
    with pytest.raises(SystemExit) as caught:
        omniedit.main([str(write_data(tmp_path)), "--out", str(tmp_path / "out"), "--limit", limit])
    assert caught.value.code == 2
    assert f"--limit: {limit} is not a whole number of at least 1" in capsys.readouterr().err


def test_wrong_arguments_end_with_a_message(omniedit, tmp_path, capsys):
    assert run(omniedit.main, [str(write_data(tmp_path)), "--out", str(tmp_path), "--task", "style"]) == 2
    assert "TASK=local or TASK=global" in capsys.readouterr().err

import csv
import importlib.util
import io
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet as parquet
import pytest
from PIL import Image

from danceopd_ext.cli import run
from danceopd_ext.errors import UserError

SCRIPT = Path(__file__).parents[2] / "scripts" / "omniedit_routes.py"
TASKS = ["addition", "style", "env", "obj_swap", "background_change"]


@pytest.fixture(scope="module")
def omniedit():
    spec = importlib.util.spec_from_file_location("omniedit_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_data(folder: Path, **change: object) -> Path:
    """A row a task; `change` replaces fields of the first."""
    rows = []
    for number, task in enumerate(TASKS):
        for name, value in (("src", 10), ("out", 200)):
            Image.new("RGB", (8, 8), (value + number, 0, 0)).save(folder / f"{name}{number}.png")
        texts = [f"A long wording of edit {number}.", f"edit\n{number}"]
        rows.append(
            {
                "src_img": f"src{number}.png",
                "edited_img": f"out{number}.png",
                "edited_prompt_list": texts,
                "task": task,
            }
        )
    rows[0] |= change
    path = folder / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def table(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


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


def test_the_dataset_file_reads_with_both_parsers(omniedit, tmp_path):
    import toml

    out = tmp_path / "out"
    omniedit.main([str(write_data(tmp_path)), "--out", str(out)])
    subsets = toml.loads((out / "dataset.toml").read_text(encoding="utf-8"))["datasets"][0]["subsets"]
    assert [s["custom_attributes"]["teacher"] for s in subsets] == ["local", "global"]
    for subset in subsets:
        targets, sources = Path(subset["image_dir"]), Path(subset["conditioning_data_dir"])
        assert {p.stem for p in targets.glob("*.png")} == {p.stem for p in sources.glob("*.png")} != set()


def test_a_limit_holds_for_each_kind_and_a_task_can_be_moved(omniedit, tmp_path):
    out = tmp_path / "out"
    omniedit.main([str(write_data(tmp_path)), "--out", str(out), "--limit", "1", "--task", "env=local"])
    assert [row["prompt"] for row in table(out / "local.csv")] == ["edit 0"]
    assert [row["prompt"] for row in table(out / "global.csv")] == ["edit 1"]


def test_parquet_with_pictures_inside_gives_the_same(omniedit, tmp_path):
    path = write_data(tmp_path)
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for row in rows:
        for name in ("src_img", "edited_img"):
            row[name] = {"bytes": (tmp_path / row[name]).read_bytes(), "path": None}
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "train-0.parquet")
    omniedit.main([str(tmp_path / "train-0.parquet"), "--out", str(tmp_path / "out")])
    assert [row["prompt"] for row in table(tmp_path / "out" / "global.csv")] == ["edit 1", "edit 2", "edit 4"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"src_img": "gone.png"}, 'gone.png \\("src_img"\\) does not exist'),
        ({"edited_img": "rows.jsonl"}, '"edited_img" is not a picture'),
        ({"edited_prompt_list": []}, "holds no instruction"),
        ({"task": None}, '"task" is missing'),
    ],
)
def test_a_broken_row_is_named(omniedit, tmp_path, change, message):
    with pytest.raises(UserError, match=message) as caught:
        omniedit.main([str(write_data(tmp_path, **change)), "--out", str(tmp_path / "out")])
    assert "rows.jsonl, line 1" in str(caught.value)


def test_wrong_arguments_end_with_a_message(omniedit, tmp_path, capsys):
    assert run(omniedit.main, [str(write_data(tmp_path)), "--out", str(tmp_path), "--task", "style"]) == 2
    assert "TASK=local or TASK=global" in capsys.readouterr().err


def test_a_picture_inside_is_read_whatever_its_form(tmp_path):
    from danceopd_ext.data.tables import picture_of

    out = io.BytesIO()
    Image.new("RGB", (4, 4)).save(out, "JPEG")
    for value in (out.getvalue(), {"bytes": out.getvalue()}):
        assert picture_of({"x": value}, "x", tmp_path, "row") == out.getvalue()

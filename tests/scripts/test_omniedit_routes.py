import csv
import hashlib
import importlib.util
import json
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pyarrow
import pyarrow.parquet as parquet
import pytest
import toml
from PIL import Image

from danceopd_ext.cli import run
from danceopd_ext.data.dataset_toml import read_dataset_config
from danceopd_ext.errors import UserError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

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


def with_pictures(path: Path) -> list[dict]:
    """The rows of such a file with the pictures inside."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")]
    for row in rows:
        for name in ("src_img", "edited_img"):
            row[name] = {"bytes": (path.parent / row[name]).read_bytes(), "path": None}
    return rows


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
    routes, notes = read_dataset_config(out / "dataset.toml", ["base", "local", "global"])
    assert {route: len(items) for route, items in routes.items()} == {"local": 2, "global": 3}
    edit = routes["local"][1]
    assert edit.text == "edit 3" and not notes
    assert [path.resolve() for path in edit.source_images] == [(out / "local/source/000001.png").resolve()]
    assert edit.target.path.resolve() == (out / "local/target/000001.png").resolve()


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
        ({"src_img": "gone.png"}, 'gone.png \\("src_img"\\) does not exist'),
        ({"edited_img": "rows.jsonl"}, '"edited_img" is not a picture'),
        ({"edited_prompt_list": []}, "holds no instruction"),
        ({"task": None}, '"task" is missing'),
        ({"task": 5}, '"task" is 5, and no text'),
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
    assert 'gone.png ("src_img") does not exist' in "".join(capsys.readouterr())
    assert [row["prompt"] for row in table(tmp_path / "out" / "local.csv")] == ["edit 3"]
    assert [row["prompt"] for row in table(tmp_path / "out" / "global.csv")] == ["edit 1"]


@pytest.mark.parametrize("limit", ["0", "-1", "all"])
def test_a_limit_is_a_positive_number(omniedit, tmp_path, capsys, limit):
    with pytest.raises(SystemExit) as caught:
        omniedit.main([str(write_data(tmp_path)), "--out", str(tmp_path / "out"), "--limit", limit])
    assert caught.value.code == 2
    assert f"--limit: {limit} is no whole number from 1" in capsys.readouterr().err


def test_wrong_arguments_end_with_a_message(omniedit, tmp_path, capsys):
    assert run(omniedit.main, [str(write_data(tmp_path)), "--out", str(tmp_path), "--task", "style"]) == 2
    assert "TASK=local or TASK=global" in capsys.readouterr().err


# --- where an edit belongs

LOCAL = ("addition", "removal", "swap", "obj_swap", "attribute_modification")


def test_a_task_that_no_row_has_is_told(omniedit, tmp_path, capsys):
    omniedit.main([str(write_data(tmp_path)), "--out", str(tmp_path / "out"), "--task", "swop=global"])
    assert "note: --task swop: no row that was read has this task; there are " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("route", "task"),
    [
        *(("global", word) for word in ("style", "background", "env", "weather", "light", "tone")),
        *(("global", task) for task in ("style_transfer", "Background_Change", "environment", "lighting")),
        *(("local", task) for task in LOCAL),
        ("local", "a task that nobody has heard of"),
    ],
)
def test_every_task_has_a_route(omniedit, tmp_path, route, task):
    """An unknown task counts as local; --task moves any."""
    other = {"local": "global", "global": "local"}[route]
    path = write_data(tmp_path, task=task)
    omniedit.main([str(path), "--out", str(tmp_path / "out")])
    assert table(tmp_path / "out" / f"{route}.csv")[0]["prompt"] == "edit 0"
    omniedit.main([str(path), "--out", str(tmp_path / "moved"), "--task", f"{task}={other}"])
    assert table(tmp_path / "moved" / f"{other}.csv")[0]["prompt"] == "edit 0"


def test_the_tasks_above_are_all_that_the_script_knows(omniedit):
    assert omniedit.GLOBAL_WORDS == ("style", "background", "env", "weather", "light", "tone")


# --- a second run


def files(folder):
    """Every file below a folder with its content."""
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def made(omniedit, tmp_path):
    """Data, and a folder that was made of it with --limit 2."""
    path = write_data(tmp_path)
    omniedit.main([str(path), "--out", str(tmp_path / "out"), "--limit", "2"])
    return path, tmp_path / "out"


def rewritten(path, change):
    lines = path.read_text(encoding="utf-8").split("\n")
    path.write_text("\n".join(change(lines)), encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda lines: lines, ["--limit", "2", "--task", "env=local"], "with --task none, not env=local"),
        (lambda lines: lines, ["--limit", "1"], "with --limit 2, not 1"),
        (lambda lines: [lines[3], *lines[1:3], lines[0], lines[4]], ["--limit", "2"], "from other data"),
        (lambda lines: lines[1:], ["--limit", "2"], "from other data"),
    ],
)
def test_other_data_or_options_do_not_mix_with_what_is_there(omniedit, made, capsys, change, options, message):
    path, out = made
    before = files(out)
    rewritten(path, change)
    assert run(omniedit.main, [str(path), "--out", str(out), *options]) == 2
    told = capsys.readouterr().err.split("error: ")[1]
    assert f"{out} holds edits made {message}" in told and "Use another --out" in told
    assert files(out) == before


@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: path.write_text("[]"), lambda path: path.write_text("{")])
def test_a_folder_that_does_not_say_what_is_in_it_is_left_alone(omniedit, made, capsys, spoil):
    path, out = made
    spoil(out / "settings.json")
    before = files(out)
    assert run(omniedit.main, [str(path), "--out", str(out), "--limit", "2"]) == 2
    assert "Use another --out" in capsys.readouterr().err
    assert files(out) == before


def test_a_larger_limit_adds_to_what_is_there(omniedit, made, tmp_path):
    path, out = made
    kept = out / "local" / "source" / "000000.png"
    time = kept.stat().st_mtime_ns
    omniedit.main([str(path), "--out", str(out)])
    assert kept.stat().st_mtime_ns == time
    omniedit.main([str(path), "--out", str(tmp_path / "fresh")])
    assert without_place(files(out)) == without_place(files(tmp_path / "fresh"))
    assert run(omniedit.main, [str(path), "--out", str(out), "--limit", "2"]) == 2


def without_place(found):
    """The files whose content does not name the folder."""
    return {path: content for path, content in found.items() if path.name != "dataset.toml"}


def test_a_run_that_was_cut_off_goes_on(omniedit, tmp_path, monkeypatch):
    path, out = write_data(tmp_path), tmp_path / "out"
    write, left = omniedit.write_edit, iter(range(3))

    def cut_off(edit, pictures):
        next(left)
        write(edit, pictures)

    with monkeypatch.context() as patch, pytest.raises(StopIteration):
        patch.setattr(omniedit, "write_edit", cut_off)
        omniedit.main([str(path), "--out", str(out)])
    times = {picture: picture.stat().st_mtime_ns for picture in out.rglob("*.png")}
    assert len(times) == 6
    omniedit.main([str(path), "--out", str(out)])
    assert {picture: picture.stat().st_mtime_ns for picture in times} == times
    omniedit.main([str(path), "--out", str(tmp_path / "fresh")])
    assert without_place(files(out)) == without_place(files(tmp_path / "fresh"))


def test_a_picture_that_was_mended_beside_the_data_is_written_again(omniedit, made, tmp_path):
    path, out = made
    Image.new("RGB", (8, 8), (0, 0, 77)).save(tmp_path / "src0.png")
    omniedit.main([str(path), "--out", str(out), "--limit", "2"])
    assert Image.open(out / "local/source/000000.png").getpixel((0, 0)) == (0, 0, 77)


def test_the_same_parquet_files_elsewhere_are_the_same_data(omniedit, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    rows = with_pictures(write_data(tmp_path))
    for number, part in enumerate((rows[:3], rows[3:])):
        parquet.write_table(pyarrow.Table.from_pylist(part), data / f"train-{number}.parquet")
    omniedit.main([str(data), "--out", str(tmp_path / "out")])
    data.rename(tmp_path / "moved")
    omniedit.main([str(tmp_path / "moved"), "--out", str(tmp_path / "out")])
    (tmp_path / "moved" / "train-1.parquet").unlink()
    assert run(omniedit.main, [str(tmp_path / "moved"), "--out", str(tmp_path / "out")]) == 2


@pytest.mark.parametrize("change", [{"src_img": "cut.jpg"}, {"edited_prompt_list": []}])
def test_nothing_is_written_where_the_first_row_is_broken(omniedit, tmp_path, capsys, change):
    Image.effect_noise((64, 64), 90).save(tmp_path / "cut.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:-200])
    assert run(omniedit.main, [str(write_data(tmp_path, **change)), "--out", str(tmp_path / "out")]) == 2
    assert "rows.jsonl, line 1" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# --- data on the hub


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

    gone = "nobody/gone is no file or folder here, and the hub does not give it (404: nobody/gone not found)."
    assert told("nobody/gone") == gone
    assert told("some/edits") == "some/edits: the dataset has no .parquet file."


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

"""A second run into the same folder."""

from pathlib import Path

import pyarrow
import pyarrow.parquet as parquet
import pytest
from PIL import Image

from danceopd_ext.cli import run
from tests.data.omniedit.rows import files, with_pictures, without_place, write_data


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

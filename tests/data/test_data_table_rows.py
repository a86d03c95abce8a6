"""Rows of datasets on the hub, and the pictures in them."""

from __future__ import annotations

import io
import json

import pytest
from PIL import Image

from danceopd_ext.data.table_rows import picture_of, read_rows
from danceopd_ext.errors import UserError
from tests.tiny.edit_files import save

FORMATS = ("JPEG", "PNG", "WEBP")


def encoded(kind):
    file = io.BytesIO()
    Image.effect_noise((64, 64), 90).convert("RGB").save(file, kind)
    return file.getvalue()


def test_rows_end_at_line_ends_alone(tmp_path):
    rows = [{"text": "one\u2028two\u2029three"}, {"text": "next\u0085line"}, {"text": "form\x0cfeed"}]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    (tmp_path / "rows.jsonl").write_bytes("\r\n".join([*lines, ""]).encode("utf-8"))
    found = list(read_rows(tmp_path / "rows.jsonl"))
    assert [row for _, row in found] == rows
    assert [where.rpartition(" ")[2] for where, _ in found] == ["1", "2", "3"]


def test_single_backslashes_of_a_windows_path_get_a_remedy(tmp_path):
    (tmp_path / "rows.jsonl").write_text(r'{"input_image": "C:\pictures\1.png"}', encoding="utf-8")
    with pytest.raises(UserError, match=r"line 1: not valid JSON: .* two backslashes"):
        list(read_rows(tmp_path / "rows.jsonl"))


@pytest.mark.parametrize("kind", FORMATS)
def test_a_picture_inside_is_read_whatever_its_form(tmp_path, kind):
    data = encoded(kind)
    (tmp_path / "a").write_bytes(data)
    for value in (data, {"bytes": data, "path": None}, {"bytes": None, "path": "a"}, "a"):
        assert picture_of({"x": value}, "x", tmp_path, "row") == data


@pytest.mark.parametrize("kind", FORMATS)
def test_a_picture_that_is_cut_off_is_refused(tmp_path, kind):
    data = encoded(kind)[:-200]
    if kind == "JPEG":
        Image.open(io.BytesIO(data)).verify()  # Pillow's quick check does not notice
    with pytest.raises(UserError, match=r'row: "x" is not a picture that can be read .*Repair or remove'):
        picture_of({"x": data}, "x", tmp_path, "row")


@pytest.mark.parametrize("value", [None, 5, [137, 80], {"bytes": None}, b"", b"no picture"])
def test_what_is_no_picture_is_refused(tmp_path, value):
    with pytest.raises(UserError, match='row: "x" is not a picture'):
        picture_of({"x": value}, "x", tmp_path, "row")


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("", "this is a folder"),
        ("gone.png", "picture not found"),
        ("x" * 5000, "cannot be read"),
        ("a\0b", "null byte"),
    ],
)
def test_a_file_that_is_not_there_is_named(tmp_path, value, told):
    with pytest.raises(UserError, match=f'^row: "x": .*{told}'):
        picture_of({"x": value}, "x", save(tmp_path / "a.png").parent, "row")

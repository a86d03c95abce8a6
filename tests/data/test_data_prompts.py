"""Prompt files in all their forms, and each thing that can be wrong with one."""

import json

import pytest

from danceopd_ext.data.items import CaptionRules
from danceopd_ext.data.prompts import read_prompts
from danceopd_ext.data.textfiles import find_path
from danceopd_ext.errors import UserError

SQUARE = [(512, 512)]


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


def texts(path, resolutions=SQUARE):
    return [item.text for item in read_prompts(path, resolutions)[0]]


def test_text_file_skips_blank_lines_and_comments(tmp_path):
    assert texts(write(tmp_path, "p.txt", "a cat\n\n  # not this\n  a dog #1 \n")) == ["a cat", "a dog #1"]


@pytest.mark.parametrize("name", ["p.txt", "p.csv", "p.jsonl"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_marks_and_line_ends_of_every_system(tmp_path, name, mark, end):
    lines = {
        "p.txt": ["ein Bär", "猫"],
        "p.csv": ["prompt", "ein Bär", "猫"],
        "p.jsonl": ['{"prompt": "ein Bär"}', '{"prompt": "猫"}'],
    }[name]
    assert texts(write(tmp_path, name, mark + end.join([*lines, ""]).encode("utf-8"))) == ["ein Bär", "猫"]


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\u0085"])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.txt", "a{mark}cat --w 8 --h 8\na dog"),
        ("p.csv", "prompt,width,height\na{mark}cat,8,8\na dog,,\n"),
        ("p.jsonl", '{{"prompt": "a{mark}cat"}}\n{{"prompt": "a dog"}}'),
    ],
)
def test_only_line_ends_end_a_line(tmp_path, name, content, mark):
    first, second = texts(write(tmp_path, name, content.format(mark=mark)))
    assert (first.replace(mark, " "), second) == ("a cat", "a dog")


def test_paths_beyond_ascii_and_capital_suffixes(tmp_path):
    folder = tmp_path / "Größe 写真"
    folder.mkdir()
    assert texts(write(folder, "пример.TXT", "a cat")) == ["a cat"]


def test_flags_set_the_size_and_leave_the_text(tmp_path):
    path = write(tmp_path, "p.txt", "a cat --w 768 --h 1024 --n ugly, blurry --d 5\na -- b --c4t\n")
    items, notes = read_prompts(path, SQUARE)
    assert [(item.text, *item.size) for item in items] == [("a cat", 768, 1024), ("a -- b", 512, 512)]
    assert notes == [f"{path}: ignored: --c4t (1 lines), --d (1 lines), --n (1 lines)"]


def test_one_side_alone_takes_the_other_from_the_resolution(tmp_path):
    items, _ = read_prompts(write(tmp_path, "p.txt", "a cat --w 768"), SQUARE)
    assert items[0].size == (768, 512)


def test_every_prompt_is_used_with_every_resolution(tmp_path):
    path = write(tmp_path, "p.txt", "a\nb --w 64 --h 64")
    items, _ = read_prompts(path, [(512, 512), (768, 512)])
    assert [(item.text, item.size) for item in items] == [("a", (512, 512)), ("a", (768, 512)), ("b", (64, 64))]


def test_items_carry_the_rules_and_their_place(tmp_path):
    rules = CaptionRules(caption_prefix="sks")
    path = write(tmp_path, "p.txt", "\na cat")
    items, _ = read_prompts(path, SQUARE, rules)
    assert items[0].rules == rules
    assert items[0].source == f"{path}, line 2"


def test_csv_with_sizes_quotes_and_other_columns(tmp_path):
    content = 'id,Prompt,width,height\n1,"a cat, asleep",640,480\n2,a dog,,\n3,,8,8\n4,"two\nlines",,\n'
    items, _ = read_prompts(write(tmp_path, "p.csv", content), SQUARE)
    assert [(item.text, item.size) for item in items] == [
        ("a cat, asleep", (640, 480)),
        ("a dog", (512, 512)),
        ("two lines", (512, 512)),
    ]


def test_csv_of_a_spreadsheet_with_semicolons(tmp_path):
    assert texts(write(tmp_path, "p.csv", "id;prompt\n1;a cat, asleep\n")) == ["a cat, asleep"]


def test_jsonl_with_sizes_and_line_breaks(tmp_path):
    rows = [{"prompt": "a\n\ncat ", "width": 640, "height": 480}, {"prompt": "b"}]
    items, _ = read_prompts(write(tmp_path, "p.jsonl", "\n".join(map(json.dumps, rows)) + "\n\n"), SQUARE)
    assert [(item.text, item.size) for item in items] == [("a cat", (640, 480)), ("b", (512, 512))]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("p.txt", "", ["p.txt", "empty", "one prompt a line"]),
        ("p.txt", "# only this\n", ["empty"]),
        ("p.csv", "", ["empty"]),
        ("p.csv", "prompt\n", ["empty"]),
        ("p.jsonl", "\n", ["empty"]),
        ("p.md", "a cat", ["p.md", ".txt, .csv or .jsonl", '".md"']),
        ("p.txt", b"gut\nsch\xf6n\n", ["not UTF-8", "line 2", "encoding UTF-8"]),
        ("p.txt", "a cat".encode("utf-16"), ["not UTF-8", "UTF-16"]),
        ("p.txt", "ok\n--w 512 --h 512\n", ["line 2", "no prompt"]),
        ("p.txt", "a cat --w big", ["line 1", '--w = "big"', "number of pixels"]),
        ("p.txt", "a cat --h", ["line 1", '--h = ""']),
        ("p.csv", "text,width\na cat,512\n", ['no column "prompt"', "text, width"]),
        ("p.csv", "prompt,width\na cat,wide\n", ["line 2", 'width = "wide"']),
        ("p.csv", "prompt\na cat, asleep\n", ["line 2", "more fields than columns", "quotes"]),
        ("p.jsonl", '{"prompt": "a"}\n{"prompt": \n', ["line 2", "not valid JSON"]),
        ("p.jsonl", '"a cat"\n', ["line 1", "expected an object"]),
        ("p.jsonl", '{"text": "a cat", "id": 1}\n', ["line 1", '"prompt"', "text, id"]),
        ("p.jsonl", '{"prompt": "a", "height": -5}\n', ["line 1", 'height = "-5"']),
    ],
)
def test_wrong_files_are_named_with_a_remedy(tmp_path, name, content, words):
    path = write(tmp_path, name, content)
    with pytest.raises(UserError) as caught:
        read_prompts(path, SQUARE)
    assert str(path) in str(caught.value)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(UserError, match=r"no\.txt: prompt file not found"):
        read_prompts(tmp_path / "no.txt", SQUARE)
    (tmp_path / "folder.txt").mkdir()
    with pytest.raises(UserError, match=r"folder\.txt: expected a prompt file, but this is a folder"):
        read_prompts(tmp_path / "folder.txt", SQUARE)


@pytest.mark.parametrize("name", ["x" * 300 + ".txt", "a\0.txt", "~nobody_at_all/x.txt"])
def test_what_cannot_be_the_name_of_a_file_is_told_like_any_other(tmp_path, name):
    with pytest.raises(UserError, match=r"\.txt.*: (the )?prompt file (cannot be read|not found)"):
        read_prompts(find_path(name, tmp_path), SQUARE)

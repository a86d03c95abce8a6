"""Prompt files in all their forms, and each thing that can be wrong with one."""

import json

import pytest

from danceopd_ext.data.items import CaptionRules
from danceopd_ext.data.prompts import read_prompts
from danceopd_ext.data.user_paths import find_path
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
    unused, unknown = notes
    assert unused.startswith(f"{path}: no effect here: --d (1 line): for sample_prompts only; --n (1 line)")
    assert unknown.startswith(f"{path}: unknown and left out: --c4t (1 line). Known: --w, --h, --n")


@pytest.mark.parametrize(
    "line", ["a cat --W 768 --H 640", "a cat --w=768 --h=640", "a cat --w 1 --n --w 768 --h 640 --n"]
)
def test_flags_are_read_as_by_sd_scripts(tmp_path, line):
    (item,), _ = read_prompts(write(tmp_path, "p.txt", line), SQUARE)
    assert (item.text, item.size) == ("a cat", (768, 640))


def test_flags_of_both_toolkits_without_a_meaning_are_told_once_a_file(tmp_path):
    line = "a cat --g 4.0 --fs 3 --ss euler_a --i a.png --f 25 --am 0.5 --ctr 0.2 --rcfg 1 --mk m.png --ei b.png --of x"
    items, notes = read_prompts(write(tmp_path, "p.txt", f"{line}\n{line}\n"), SQUARE)
    assert [item.text for item in items] == ["a cat"] * 2
    (note,) = notes
    flags = ("g", "fs", "ss", "i", "f", "am", "ctr", "rcfg", "mk", "ei", "of")
    assert all(f"--{flag} (2 lines)" in note for flag in flags)


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
    assert items[0].where == f"{path}, line 2"


def test_csv_with_sizes_quotes_and_other_columns(tmp_path):
    content = 'id,Prompt,width,height\n1,"a cat, asleep",640,480\n2,a dog,,\n3,,8,8\n4,"two\nlines",,\n'
    items, _ = read_prompts(write(tmp_path, "p.csv", content), SQUARE)
    assert [(item.text, item.size) for item in items] == [
        ("a cat, asleep", (640, 480)),
        ("a dog", (512, 512)),
        ("two lines", (512, 512)),
    ]


@pytest.mark.parametrize(
    "content",
    [
        "id;prompt\n1;a cat, asleep\n",
        "sep=;\nid;prompt\n1;a cat, asleep\n",
        "SEP=|\r\nid|prompt\r\n1|a cat, asleep\r\n",
        '"sep=;";\nid;prompt\n1;a cat, asleep\n',
        "sep=\t\nid\tprompt\n1\ta cat, asleep\n",
        "id\tprompt\n1\ta cat, asleep\n",
        ' ID ;" Prompt "; \n1;a cat, asleep;\n',
        "\nid;prompt;;\n;;\n1;a cat, asleep;;\n",
    ],
)
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_csv_of_a_spreadsheet_in_every_form(tmp_path, content, mark):
    items, notes = read_prompts(write(tmp_path, "p.csv", mark + content), SQUARE)
    assert [item.text for item in items] == ["a cat, asleep"]
    assert notes == [f"{tmp_path / 'p.csv'}: ignored: id"]


def test_lines_of_a_csv_are_counted_from_the_top_of_the_file(tmp_path):
    with pytest.raises(UserError, match=r'line 5: width = "wide"'):
        read_prompts(write(tmp_path, "p.csv", "\nsep=;\n\nprompt;width\na cat;wide\n"), SQUARE)


def test_whole_numbers_that_a_table_shows_with_a_point(tmp_path):
    (item,), _ = read_prompts(write(tmp_path, "p.csv", "prompt,width,height\na cat,768.0,512.\n"), SQUARE)
    assert item.size == (768, 512)


INFOTEXT = (
    "a cat, asleep\nNegative prompt: bad hands,\nblurry\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1\na dog"
)


@pytest.mark.parametrize(
    ("name", "content", "places"),
    [
        ("p.txt", INFOTEXT, "line 2, line 3, line 4"),
        ("p.csv", f'prompt\n"{INFOTEXT}"\n', "line 6"),
        ("p.jsonl", json.dumps({"prompt": INFOTEXT}), "line 1"),
    ],
)
def test_generation_settings_that_a_ui_pasted_are_left_out_and_told(tmp_path, name, content, places):
    items, notes = read_prompts(write(tmp_path, name, content), SQUARE)
    assert " ".join(item.text for item in items) == "a cat, asleep a dog"
    (note,) = notes
    assert f"are left out: they are not prompts ({places})" in note


def test_a_file_of_generation_settings_alone_has_no_prompt(tmp_path):
    with pytest.raises(UserError, match=r"empty.*Negative prompt.*line 1"):
        read_prompts(write(tmp_path, "p.txt", "Negative prompt: bad hands\n"), SQUARE)


def test_the_end_of_a_negative_prompt_is_not_guessed(tmp_path):
    content = "Negative prompt: bad\na dog\n\nSteps to a house: 20, 30\nSteps: 20, Sampler: Euler\n"
    assert texts(write(tmp_path, "p.txt", content)) == ["a dog", "Steps to a house: 20, 30"]


@pytest.mark.parametrize("name", ["p.txt", "p.csv", "p.jsonl"])
def test_the_syntax_of_uis_is_told_once_with_its_places_and_stays(tmp_path, name):
    lines = ["a (red:1.2) cat", "a dog, <lora:style:0.8>", "(blue sky:1.1) BREAK x"]
    content = {
        "p.txt": "\n".join(lines),
        "p.csv": "prompt\n" + "\n".join(f'"{line}"' for line in lines),
        "p.jsonl": "\n".join(json.dumps({"prompt": line}) for line in lines),
    }[name]
    items, notes = read_prompts(write(tmp_path, name, content), SQUARE)
    assert [item.text for item in items] == lines
    first = 2 if name == "p.csv" else 1
    (note,) = notes
    assert f"(word:1.2) (line {first}, line {first + 2}): write only the words" in note
    assert f"<lora:...> (line {first + 1}): leave it out" in note
    assert f"BREAK (line {first + 2})" in note


def test_jsonl_with_sizes_and_line_breaks(tmp_path):
    rows = [{"prompt": "a\n\ncat ", "width": 640, "height": 480}, {"prompt": "b"}]
    items, _ = read_prompts(write(tmp_path, "p.jsonl", "\n".join(map(json.dumps, rows)) + "\n\n"), SQUARE)
    assert [(item.text, item.size) for item in items] == [("a cat", (640, 480)), ("b", (512, 512))]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("p.txt", "", ["p.txt", "empty", "one prompt per line"]),
        ("p.txt", "# only this\n", ["empty"]),
        ("p.csv", "", ["empty"]),
        ("p.csv", "prompt\n", ["empty"]),
        ("p.jsonl", "\n", ["empty"]),
        ("p.md", "a cat", ["p.md", ".txt, .csv or .jsonl", '".md"']),
        ("p.txt", b"gut\nsch\xf6n\n", ["not UTF-8", "line 2", "UTF-8"]),
        ("p.txt", "a cat".encode("utf-16"), ["not UTF-8", "UTF-16"]),
        ("p.txt", "ok\n--w 512 --h 512\n", ["line 2", "no prompt"]),
        ("p.txt", "a cat --w big", ["line 1", '--w = "big"', "number of pixels"]),
        ("p.txt", "a cat --h", ["line 1", '--h = ""']),
        ("p.csv", "text,width\na cat,512\n", ['the column "prompt" is missing', "text, width"]),
        ("p.csv", "prompt,width\na cat,wide\n", ["line 2", 'width = "wide"']),
        ("p.csv", "prompt\na cat, asleep\n", ["line 2", "more fields than columns", "quotes"]),
        ("p.csv", "prompt,width,prompt\na,1,b\n", ['2 columns are called "prompt"']),
        ("p.csv", "x" * 300_000, ["line 1", "not valid CSV"]),
        ("p.csv", '"prompt', ["line 1", "not valid CSV", "quote"]),
        ("p.csv", "prompt,width\na," + "9" * 5000, ["line 2", "number of pixels"]),
        ("p.txt", "a cat --w " + "9" * 5000, ["line 1", "number of pixels"]),
        ("p.txt", "a cat".encode("utf-16-le"), ["not UTF-8", "UTF-16"]),
        ("p.csv", "prompt\na cat\n".encode("utf-16"), ["not UTF-8", "UTF-16"]),
        ("p.txt", b"a\nb\0c", ["not UTF-8", "line 2"]),
        ("p.jsonl", "[" * 100_000, ["line 1", "not valid JSON"]),
        ("p.jsonl", '{"prompt": "a", "width": ' + "9" * 5000 + "}", ["line 1", "not valid JSON"]),
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

"""Lines of preview prompts: where one ends, and the source images that it names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from danceopd_ext.data.prompts import read_prompts
from danceopd_ext.errors import UserError
from danceopd_ext.models.family import SizeLimits
from danceopd_ext.toolkits.native.prompt_lines import PreviewPrompt, parse_line, read_preview_prompts
from tests.tiny.edit_files import editor, save


@pytest.fixture
def read(tmp_path):
    """Write a file of preview prompts and read it."""

    def read(content, folder=tmp_path, name="samples.txt", notes=None):
        (folder / name).write_text(content, encoding="utf-8")
        return read_preview_prompts(str(folder / name), SizeLimits(16, 1024), editor(), (64, 48), notes)

    return read


@pytest.mark.parametrize("mark", ["\u2028", "\u0085", "\x0c"])
def test_only_line_ends_end_a_line(read, mark):
    assert [prompt.prompt for prompt in read(f"a{mark}cat\n# not this\na dog\n")] == [f"a{mark}cat", "a dog"]


def test_a_source_image_beside_the_file_comes_before_one_of_the_working_directory(read, tmp_path, monkeypatch):
    for name in ("here", "there"):
        save(tmp_path / name / "a.png")
    monkeypatch.chdir(tmp_path / "here")
    (prompt,) = read("add a hat --ci a.png", tmp_path / "there")
    assert prompt.sources == (tmp_path / "there" / "a.png",)


def test_a_source_image_may_stand_in_quotes():
    line = parse_line(r'add a hat --ci "C:\my pictures\1.png" --w 64')
    assert (line.sources, line.width) == ((Path(r"C:\my pictures\1.png"),), 64)
    with pytest.raises(ValueError, match="needs the path of a source image"):
        parse_line('add a hat --ci ""')


@pytest.mark.parametrize("value", ["nan", "inf", "abc", ""])
def test_a_scale_that_is_no_number(value):
    with pytest.raises(ValueError, match="--l takes a number, not"):
        parse_line(f"a cat --l {value}")


@pytest.mark.parametrize(
    ("line", "size"),
    [
        ("a cat", (64, 48)),
        ("a cat --w 32", (32, 48)),
        ("add a hat --ci wide.png", (80, 32)),
        ("add a hat --ci wide.png --w 32 --h 32", (32, 32)),
    ],
)
def test_a_line_without_a_size_has_that_of_a_routes_prompt(read, tmp_path, line, size):
    save(tmp_path / "wide.png", (120, 60))
    (prompt,) = read(line)
    assert (prompt.width, prompt.height) == size
    (tmp_path / "p.txt").write_text(line + "\n", encoding="utf-8")
    (item,) = read_prompts(tmp_path / "p.txt", [(64, 48)], multiple=16)[0]
    assert item.size == size


def test_a_source_image_that_gives_no_size_is_named(read):
    with pytest.raises(UserError, match=r"samples.txt, line 1: its source image .*none.png"):
        read("add a hat --ci none.png")


WHOLE = PreviewPrompt("a cat", "blurry", 32, 64, 5, 4.5, 2)


@pytest.mark.parametrize(
    "line",
    [
        "a cat --n blurry --w 32 --h 64 --d 5 --l 4.5 --s 2",
        "a cat --N blurry --W 32 --H 64 --D 5 --L 4.5 --S 2",
        "a cat --n=blurry --w=32 --h=64 --d=5 --l=4.5 --s=2",
        "a cat --w 1 --n bad --w 32 --n blurry --h 64 --d 5 --l 4.5 --s 2 --n blurry",
    ],
)
def test_flags_in_every_form(line):
    assert parse_line(line) == WHOLE


def test_a_flag_without_a_value_takes_nothing_of_the_next():
    prompt = parse_line("a cat --n --w 32 --h 32 --s 2")
    assert (prompt.negative_prompt, prompt.width, prompt.height, prompt.steps) == ("", 32, 32, 2)


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (
            json.dumps(
                [
                    {"prompt": "a\n cat\n", "negative_prompt": "blurry", "width": 32, "height": 64.0, "seed": 5,
                     "scale": 4.5, "sample_steps": "2"},
                    "a cat --n blurry --w 32 --h 64 --d 5 --l 4.5 --s 2",
                    {"prompt": "a dog", "cfg_scale": 2, "enum": 3, "seed": None},
                ]
            ),
            "samples.json",
        ),
        (
            '[prompt]\nnegative_prompt = "blurry"\nwidth = 32\nheight = 64\nscale = 4.5\nsample_steps = 2\n'
            '[[prompt.subset]]\nprompt = "a cat"\nseed = 5\n'
            '[[prompt.subset]]\nprompt = "a cat"\nseed = 5\n'
            '[[prompt.subset]]\nprompt = "a dog"\nscale = 2\nnegative_prompt = ""\nwidth = 64\nheight = 48\n'
            "sample_steps = 28\n",
            "samples.TOML",
        ),
    ],
)  # fmt: skip
def test_sd_scripts_own_files_of_sample_prompts(read, content, name):
    notes = []
    prompts = read(content, name=name, notes=notes)
    assert prompts == [WHOLE, WHOLE, PreviewPrompt("a dog", width=64, height=48, guidance_scale=2.0)]
    assert notes == []


@pytest.mark.parametrize("key", ["controlnet_image", "control_image_path"])
@pytest.mark.parametrize("many", [False, True])
def test_source_images_of_a_json_file(read, tmp_path, key, many):
    save(tmp_path / "a.png", (64, 64))
    (prompt,) = read(json.dumps([{"prompt": "add a hat", key: ["a.png"] if many else "a.png"}]), name="s.json")
    assert prompt.sources == (tmp_path / "a.png",)


def test_one_prompt_of_a_toml_file_needs_no_subset(read):
    assert [prompt.prompt for prompt in read('[prompt]\nprompt = "a cat"\n', name="s.toml")] == ["a cat"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("s.json", "{", ["s.json", "not valid JSON"]),
        ("s.json", '{"prompt": "a cat"}', ["are a list", '[{"prompt": "a cat"', "an object"]),
        ("s.json", '[{"text": "a", "width": 8}]', ["prompt 1", '"prompt" is missing or is not text', "text, width"]),
        ("s.json", '[{"prompt": 3}]', ["prompt 1", '"prompt" is missing or is not text']),
        ("s.json", "[3]", ["prompt 1", "expected an object"]),
        ("s.json", '[{"prompt": "a", "width": true}]', ["prompt 1", 'width takes a whole number, not "True"']),
        ("s.json", '[{"prompt": "a", "width": 32.5}]', ["prompt 1", "width takes a whole number"]),
        ("s.json", '[{"prompt": "a", "scale": 1e999}]', ["[0].scale = inf", "finite number"]),
        ("s.json", '[{"prompt": "a", "negative_prompt": ["b"]}]', ["negative_prompt takes text in quotes"]),
        ("s.json", "[]", ["contains no prompt"]),
        ("s.toml", "[prompt\n", ["s.toml", "not valid TOML", "line 1"]),
        ("s.toml", "prompt = 3", ["[prompt]", "[[prompt.subset]]"]),
        ("s.toml", '[prompt.subset]\nprompt = "a"', ["double brackets"]),
        ("s.toml", "[prompt]\nseed = 1\n[[prompt.subset]]", ["subset 1", '"prompt" is missing or is not text']),
        ("s.txt", "a cat --d 18446744073709551616", ["line 1", "--d", "the largest seed is 18446744073709551615"]),
        ("s.txt", "a cat --d 1.5", ["line 1", "--d takes a whole number"]),
        ("s.txt", "a cat --d " + "9" * 5000, ["line 1", "--d takes a whole number"]),
        ("s.txt", "a cat --s 0", ["line 1", "--s 0: it must be from 1 to 1000"]),
        ("s.txt", "a cat --s 1001", ["line 1", "--s 1001: it must be from 1 to 1000"]),
        ("s.txt", "a cat --l 0.5", ["line 1", "--l 0.5", "1 or more"]),
        ("s.txt", "a cat --w 33", ["line 1", "33x48 cannot be drawn", "multiples of 16"]),
        ("s.txt", "ok\n--w 32", ["line 2", "flags but no prompt"]),
        ("s.txt", "# nothing\n", ["contains no prompt"]),
        ("s.csv", "prompt\na cat\n", [".txt file with one prompt per line, a .toml or a .json file", '".csv"']),
        ("s.jsonl", '{"prompt": "a cat"}', [".txt file with one prompt per line, a .toml or a .json file"]),
    ],
)
def test_wrong_files_are_named_with_their_place(read, tmp_path, name, content, words):
    with pytest.raises(UserError) as caught:
        read(content, name=name)
    assert str(tmp_path / name) in str(caught.value)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert len(str(caught.value)) < 2000


def test_the_largest_seed_and_a_seed_below_zero(read):
    notes = []
    largest, random = read(f"a cat --d {2**64 - 1}\na dog --d -1\n", notes=notes)
    torch.Generator("cpu").manual_seed(largest.seed)
    assert random.seed is None
    assert [note for note in notes if "below 0" in note and "line 2" in note] == notes


def test_what_is_not_drawn_as_the_file_says_is_told_once(read):
    notes = []
    line = "a (red:1.2) cat --W 32 --g 4.0 --fs 3 --ss euler_a --foo 1 --n [word]"
    prompts = read(f"{line}\n{line}\nNegative prompt: x\nSteps: 20, Sampler: Euler a\n", notes=notes)
    assert [prompt.width for prompt in prompts] == [32, 32]
    pasted, unused, unknown, syntax = notes
    assert "left out" in pasted and "line 3, line 4" in pasted
    assert all(f"--{flag} (2 prompts): " in unused for flag in ("g", "fs", "ss"))
    assert "--foo (2 prompts)" in unknown and "--w, --h, --n" in unknown
    assert "(word:1.2) (line 1, line 2)" in syntax and "[word] (line 1, line 2)" in syntax


def test_unknown_keys_of_a_json_file_are_told(read):
    notes = []
    read('[{"prompt": "a", "sample_sampler": "euler", "colour": "red"}]', name="s.json", notes=notes)
    assert ["sample_sampler (1 prompt)" in notes[0], "colour (1 prompt)" in notes[1]] == [True, True]


def test_a_wrong_seed_ends_the_run_before_it_starts(refused, changed, tmp_path):
    (tmp_path / "s.txt").write_text(f"a cat --d {2**64}\n", encoding="utf-8")
    message = refused(changed(sample_prompts=str(tmp_path / "s.txt"), sample_every_n_steps=2))
    assert "s.txt, line 1: --d 18446744073709551616: the largest seed is" in message


def test_pictures_are_drawn_as_a_json_file_says(ran, tmp_path, capsys):
    record = {"prompt": "a cat", "width": 32, "height": 16, "sample_steps": 2, "sample_sampler": "ddim"}
    (tmp_path / "s.json").write_text(json.dumps([record]), encoding="utf-8")
    output = ran(sample_prompts=str(tmp_path / "s.json"), sample_every_n_steps=2)
    (picture,) = (output / "sample").iterdir()
    with Image.open(picture) as grid:
        assert grid.width > 4 * 32
    assert "note: " in (said := capsys.readouterr().out)
    assert "sample_sampler (1 prompt): the model's pipeline sets the sampler" in said

"""Huge and odd values at every place where a user writes: one readable message, from the real entry points."""

from __future__ import annotations

import json

import pytest

from danceopd_ext.cli import main as tools
from danceopd_ext.cli import run
from danceopd_ext.errors import LONGEST_LINE
from danceopd_ext.toolkits.run import main

HUGE = "x" * 300_000
WORDS = "a cat, asleep " * 20_000
ODD = "\x1b[2J\x07\u202eodd"

PRESETS = {
    "key": 'x = 1\n"{}" = 1\n',
    "section": '["{}"]\na = 1\n',
    "value of a wrong type": 'max_train_steps = "{}"\n',
    "choice": 'mixed_precision = "{}"\n',
    "model": 'pretrained_model_name_or_path = "{}"\n',
    "dataset file": 'dataset_config = "{}"\n',
    "teacher": '[danceopd.teachers."{}"]\nlora = "no"\n',
    "key of a teacher": '[danceopd.teachers.a]\n"{}" = 1\n',
    "lora": '[danceopd.teachers.a]\nlora = "{}"\n',
    "prompt file": '[danceopd.teachers.a]\n[danceopd.prompts]\na = "{}"\n',
    "prompts of nobody": '[danceopd.teachers.a]\n[danceopd.prompts]\n"{}" = "p.txt"\n',
    "invalid TOML": "a = {}\n",
}
FILES = {
    "p.txt": "a cat --w {}\n",
    "p.csv": "prompt,width\na cat,{}\n",
    "header of p.csv": "text,{}\na cat,1\n",
    "p.jsonl": '{{"prompt": "a cat", "height": "{}"}}\n',
    "key of p.jsonl": '{{"text": 1, "{}": 2}}\n',
    "invalid p.jsonl": "{}\n",
}
SAMPLES = {
    "s.txt": "a cat --d {}\n",
    "s.json": '[{{"prompt": "a cat", "seed": "{}"}}]',
    "key of s.json": '[{{"{}": "a cat"}}]',
    "invalid s.toml": "[prompt]\n{}\n",
    "source of s.txt": "a cat --ci {}\n",
}
DATASETS = {
    "key": '[general]\n"{}" = 1\n',
    "top": '"{}" = 1\n',
    "value": '[[datasets]]\nresolution = "{}"\n[[datasets.subsets]]\nimage_dir = "img"\n',
    "folder": '[[datasets]]\nresolution = 64\n[[datasets.subsets]]\nimage_dir = "{}"\n',
    "teacher": '[[datasets]]\nresolution = 64\n[[datasets.subsets]]\nimage_dir = "."\n'
    'custom_attributes.teacher = "{}"\n',
}
VALUES = [HUGE, WORDS, ODD]


def escaped(value):
    """The value inside double quotes of TOML or JSON."""
    return json.dumps(value, ensure_ascii=True)[1:-1]


def check(capsys, code):
    said = capsys.readouterr()
    assert code == 2
    assert "Traceback" not in said.err
    lines = said.err.splitlines()
    assert lines[0].startswith("error: ") and "error: " not in "".join(lines[1:])
    assert len(lines) == 1 or all(line.startswith("- ") for line in lines[1:])  # several wrong keys: a line each
    assert max(map(len, lines)) <= LONGEST_LINE + len("error: ")
    assert not set(said.out + said.err) & {"\x1b", "\x07", "\u202e"}


def preset_of(folder, text):
    (folder / "preset.toml").write_text(text, encoding="utf-8")
    return ["--config", str(folder / "preset.toml")]


@pytest.mark.parametrize("value", VALUES, ids=["huge", "words", "odd"])
@pytest.mark.parametrize("place", PRESETS)
def test_in_a_preset(tmp_path, capsys, place, value):
    check(capsys, run(main, preset_of(tmp_path, PRESETS[place].format(escaped(value)))))


@pytest.mark.parametrize("value", VALUES, ids=["huge", "words", "odd"])
@pytest.mark.parametrize("place", [*FILES, *SAMPLES])
def test_in_a_prompt_file(tmp_path, capsys, pipelines, place, value):
    name = place.rpartition(" ")[2]
    kept = value if name.endswith((".txt", ".csv")) else escaped(value)
    (tmp_path / name).write_text({**FILES, **SAMPLES}[place].format(kept), encoding="utf-8")
    (tmp_path / "ok.txt").write_text("a cat\n", encoding="utf-8")
    prompts, samples = (name, "ok.txt") if name.startswith("p.") else ("ok.txt", name)
    here = tmp_path.as_posix()
    text = (
        f'pretrained_model_name_or_path = "{pipelines["sd3"].as_posix()}"\nmixed_precision = "no"\nresolution = 16\n'
        f'sample_prompts = "{here}/{samples}"\nsample_every_n_steps = 1\noutput_dir = "{here}/out"\n'
        f'[danceopd.teachers.a]\n[danceopd.prompts]\na = "{here}/{prompts}"\n'
    )
    check(capsys, run(main, preset_of(tmp_path, text)))


@pytest.mark.parametrize("value", VALUES, ids=["huge", "words", "odd"])
@pytest.mark.parametrize("place", DATASETS)
def test_in_a_dataset_file(tmp_path, capsys, pipelines, place, value):
    (tmp_path / "img").mkdir()
    (tmp_path / "data.toml").write_text(DATASETS[place].format(escaped(value)), encoding="utf-8")
    here = tmp_path.as_posix()
    text = (
        f'pretrained_model_name_or_path = "{pipelines["sd3"].as_posix()}"\nmixed_precision = "no"\n'
        f'dataset_config = "{here}/data.toml"\noutput_dir = "{here}/out"\n[danceopd.teachers.a]\n'
    )
    check(capsys, run(main, preset_of(tmp_path, text)))


@pytest.mark.parametrize("value", VALUES, ids=["huge", "words", "odd"])
def test_on_the_command_line(tmp_path, capsys, value):
    preset = preset_of(tmp_path, "")
    check(capsys, run(main, [*preset, "--max_train_steps", value]))
    check(capsys, run(main, [*preset, f"--{value}", "1"]))
    check(capsys, run(tools, ["inspect", value]))
    with pytest.raises(SystemExit) as caught:
        run(tools, ["convert", "a", "b", "--to", "kohya", "--rank", value])
    assert caught.value.code == 2
    assert len(capsys.readouterr().err) < 4000

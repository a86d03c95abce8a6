"""The command: which preset, which flags, and which toolkit's trainer gets them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path, PureWindowsPath
from types import ModuleType

import pytest

from danceopd_ext.cli import run
from danceopd_ext.errors import UserError
from danceopd_ext.toolkits import run as run_module
from danceopd_ext.toolkits.hosted.session import Stopped
from danceopd_ext.toolkits.run import line_of, main, parse_command

PRESET = '[danceopd]\ntoolkit = "musubi-tuner"\n[danceopd.teachers.base]\n'


def test_words_of_the_command():
    assert parse_command(["--config", "a b.toml", "--x", "1", "-2", "--y=3=4", "--z", "--some-key", "5"]) == (
        "a b.toml",
        {"x": ["1", "-2"], "y": ["3=4"], "z": [], "some_key": ["5"]},
    )
    assert parse_command(["--config_file=a.toml"]) == ("a.toml", {})


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["preset.toml"], 'unexpected "preset.toml"'),
        (["--seed", "3"], "no preset: give --config preset.toml (presets/ has one for each purpose)."),
        (["--confg", "preset.toml"], "--confg is not --config"),
        (["--dataset_config", "a.toml"], "no preset"),
        (["--config"], "no preset"),
    ],
)
def test_wrong_commands(words, expected):
    with pytest.raises(UserError) as error:
        parse_command(words)
    assert expected in str(error.value)
    assert "--dataset_config is" not in str(error.value)


@pytest.mark.parametrize("word", ["-h", "--help"])
@pytest.mark.parametrize(
    "words", [[], ["--config", "preset.toml"], ["--config", "preset.toml", "--output_dir", "o3"], ["--config"]]
)
def test_help_is_help_wherever_it_stands(tmp_path, monkeypatch, capsys, words, word):
    """Not the end of a folder's name; a preset need not even be there."""
    monkeypatch.chdir(tmp_path)
    assert run(main, [*words, word]) == 0
    assert capsys.readouterr().out.startswith("usage: ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("word", "value"),
    [("-1", "-1"), ("-0.5", "-0.5"), ("-.5", "-.5"), ("-inf", "-inf"), ("-", "-")],
)
def test_values_that_begin_with_a_dash(word, value):
    assert parse_command(["--config", "a.toml", "--seed", word])[1] == {"seed": [value]}


def test_any_value_may_begin_with_a_dash_behind_an_equals_sign():
    flags = parse_command(["--config=a.toml", "--output_dir=-h", "--metadata_title=--x", "--y=-v", "b"])[1]
    assert flags == {"output_dir": ["-h"], "metadata_title": ["--x"], "y": ["-v", "b"]}


@pytest.mark.parametrize("word", ["-v", "-lr", "-config"])
def test_a_short_option_is_not_swallowed(word):
    with pytest.raises(UserError, match=f'unexpected "{word}".*write arguments as --name value.*--output_dir="{word}"'):
        parse_command(["--config", "a.toml", "--output_dir", "o3", word])


@pytest.mark.parametrize(("toolkit", "folder"), [("sd-scripts", "sd_scripts"), ("musubi-tuner", "musubi")])
def test_the_toolkits_trainer_is_called(tmp_path, monkeypatch, capsys, toolkit, folder):
    """And nothing of the native loop is imported for it."""
    seen = []
    trainer = ModuleType("trainer")
    trainer.train = lambda preset: seen.append(preset) or tmp_path / "fused.safetensors"
    monkeypatch.setitem(sys.modules, f"danceopd_ext.toolkits.{folder}", ModuleType("package"))
    monkeypatch.setitem(sys.modules, f"danceopd_ext.toolkits.{folder}.run", trainer)
    monkeypatch.setitem(sys.modules, "danceopd_ext.toolkits.native.train", None)  # importing it would fail
    monkeypatch.setitem(sys.modules, "danceopd_ext.library_logging", None)
    path = tmp_path / "preset.toml"
    path.write_text(PRESET.replace("musubi-tuner", toolkit), encoding="utf-8")
    assert run(main, ["--config", str(path), "--anything", "1"]) == 0
    assert [(preset.toolkit, preset.flags) for preset in seen] == [(toolkit, {"anything": ["1"]})]
    assert capsys.readouterr().out == f"done: {tmp_path / 'fused.safetensors'}\n"


def test_what_a_hosted_preset_leaves_out_is_told(tmp_path, monkeypatch, capsys):
    told = []
    trainer = ModuleType("trainer")
    trainer.train = lambda preset: told.append(capsys.readouterr().out) or tmp_path / "fused.safetensors"
    monkeypatch.setitem(sys.modules, "danceopd_ext.toolkits.musubi.run", trainer)
    path = tmp_path / "preset.toml"
    path.write_text('LoRA_type = "Standard"\n' + PRESET, encoding="utf-8")
    assert run(main, ["--config", str(path)]) == 0
    assert told == ["note: left out because only a training GUI reads them: LoRA_type\n"]


@pytest.fixture
def hosted(tmp_path, monkeypatch, capsys):
    """Run the command with this in the place of a toolkit's train(preset); the exit code and what is printed."""

    def hosted(train, toolkit="musubi-tuner", folder="musubi", model_type="z_image") -> tuple[int, list[str]]:
        module = ModuleType("trainer")
        module.train = train
        monkeypatch.setitem(sys.modules, f"danceopd_ext.toolkits.{folder}.run", module)
        path = tmp_path / "preset.toml"
        text = f'[model]\nmodel_type = "{model_type}"\n' + PRESET.replace("musubi-tuner", toolkit)
        path.write_text(text, encoding="utf-8")
        return run(main, ["--config", str(path)]), capsys.readouterr().out.splitlines()

    return hosted


def test_a_run_that_is_done_names_the_command_for_the_program_that_needs_it(hosted):
    code, lines = hosted(lambda preset: Path("out", "fused.safetensors"))
    file, target = Path("out", "fused.safetensors"), Path("out", "fused_comfyui.safetensors")
    assert code == 0
    assert lines == [
        f"done: {file}", f'for ComfyUI: python -m danceopd_ext convert "{file}" "{target}" --to comfyui',
    ]  # fmt: skip
    _, lines = hosted(lambda preset: file, "sd-scripts", "sd_scripts", "sd3")
    assert lines[1].startswith("for diffusers: ")
    _, lines = hosted(lambda preset: file, model_type="qwen_image")
    assert lines == [f"done: {file}"]


def test_a_run_that_was_stopped_is_not_done(hosted):
    def stopped(preset):
        raise Stopped("stopped after step 3, saved a. Resume with: --resume b")

    assert hosted(stopped) == (130, ["stopped after step 3, saved a. Resume with: --resume b"])


def test_the_first_process_tells_of_the_stop_before_the_others_end(hosted, monkeypatch):
    """torchrun ends all as soon as one has ended."""
    waited = []
    monkeypatch.setattr(run_module.time, "sleep", waited.append)

    def stopped(preset):
        raise Stopped("stopped after step 3.")

    assert hosted(stopped) == (130, ["stopped after step 3."])
    assert waited == []
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.setenv(name, "1")
    assert hosted(stopped) == (130, [])
    assert waited == [run_module.HEAD_START]


@pytest.mark.parametrize("text", [PRESET + "[danceopd.routes]\nstile = 1\n", "[danceopd.teachers.base]\n"])
def test_only_the_first_process_tells_what_is_wrong(tmp_path, monkeypatch, capsys, text):
    path = tmp_path / "preset.toml"
    path.write_text(text, encoding="utf-8")
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert run(main, ["--config", str(path)]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(SystemExit) as stop:
        run(main, ["--config", str(path)])
    assert stop.value.code == 2
    assert capsys.readouterr().err == ""


def test_the_command_needs_none_of_the_native_libraries():
    """A toolkit's environment has other versions of them, or none."""
    code = (
        "import sys\n"
        "for name in ('torch', 'diffusers', 'peft', 'psutil', 'transformers', 'accelerate'): sys.modules[name] = None\n"
        "import danceopd_ext.toolkits.run\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_missing_prompt_file_is_quoted_as_the_preset_names_it(tmp_path):
    preset = tmp_path / "preset.toml"
    preset.write_text('# about this\n[danceopd.prompts]\nbase = "made/prompts.csv"   # make_data.py makes it\n')
    line = line_of(str(preset), Path("made/prompts.csv"))
    assert line == f' Line 3 of {preset}: base = "made/prompts.csv"   # make_data.py makes it'
    assert line_of(str(preset), Path("other.csv")) == ""


def test_a_missing_file_in_the_home_folder_is_quoted_too(tmp_path, monkeypatch):
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    preset = tmp_path / "preset.toml"
    preset.write_text('base = "~/made/prompts.csv"   # make_data.py makes it\n', encoding="utf-8")
    assert line_of(str(preset), tmp_path / "made" / "prompts.csv").startswith(" Line 1 of ")


def test_a_path_with_backslashes_is_quoted_too(tmp_path):
    preset = tmp_path / "preset.toml"
    preset.write_text("base = 'made\\prompts.csv'\n", encoding="utf-8")
    assert line_of(str(preset), PureWindowsPath("made/prompts.csv")).startswith(" Line 1 of ")

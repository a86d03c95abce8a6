"""A preset for a toolkit: [danceopd] is ours, everything else is handed on as it was written."""

from __future__ import annotations

import re

import pytest

from danceopd_ext.config import load_preset
from danceopd_ext.config.hosted_preset import split_preset
from danceopd_ext.errors import UserError
from danceopd_ext.toolkits.run import parse_command

HOSTED = """[danceopd]
toolkit = "musubi-tuner"
[danceopd.teachers.base]
[danceopd.teachers.style]
lora = "style.safetensors"
"""


@pytest.fixture
def split(tmp_path):
    """Write a preset and split it, with command-line words."""

    def split(text: str = HOSTED, *words: str):
        path = tmp_path / "preset.toml"
        path.write_text(text, encoding="utf-8")
        return split_preset(*parse_command(["--config", str(path), *words]))

    return split


@pytest.fixture
def problem(split):
    """The message of a preset that is wrong."""

    def problem(text: str, *words: str) -> str:
        with pytest.raises(UserError) as error:
            split(text, *words)
        return str(error.value)

    return problem


def test_a_native_preset_is_not_hosted(split):
    text = HOSTED.replace("musubi-tuner", "native")
    assert split(text) is None
    assert split(text.replace('toolkit = "native"\n', "")) is None
    assert split(HOSTED, "--toolkit", "native") is None


def test_ours_and_theirs(split, tmp_path):
    preset = split(
        'dit = "model.safetensors"\n[anything]\nlearning_rate = 1\nnetwork_args = ["a=1"]\nmodel_type = "z_image"\n'
        f"compile = true\n{HOSTED}[more]\nblocks_to_swap = 3\nrollout_steps = 8\n"
    )
    assert preset.path == tmp_path / "preset.toml"
    assert preset.toolkit == "musubi-tuner"
    assert preset.model_type == "z_image"
    assert preset.values == {
        "dit": "model.safetensors",
        "learning_rate": 1,
        "network_args": ["a=1"],
        "compile": True,
        "blocks_to_swap": 3,
    }
    assert type(preset.values["learning_rate"]) is int, "as TOML gave it"
    assert preset.flags == {}
    assert preset.danceopd.rollout_steps == 8, "our keys are ours in every section"
    assert preset.danceopd.query == "low_noise"
    assert list(preset.danceopd.teachers) == ["base", "style"]


def test_without_a_model_type(split):
    assert split().model_type is None


@pytest.mark.parametrize("place", ["before", "after", "in [danceopd]"])
def test_the_toolkit_is_found_in_any_section(split, place):
    bare = HOSTED.replace('toolkit = "musubi-tuner"\n', "")
    key = 'toolkit = "sd-scripts"\n'
    texts = {
        "before": key + bare,
        "after": f"{bare}[model]\n{key}",
        "in [danceopd]": bare.replace("]\n", f"]\n{key}", 1),
    }
    assert split(texts[place]).toolkit == "sd-scripts"


def test_flags(split):
    preset = split(
        HOSTED + '[model]\nmodel_type = "flux"\nseed = 1\nrollout_steps = 4\n',
        *(
            "--rollout_steps",
            "8",
            "--seed",
            "5",
            "--network-args",
            "a=1",
            "b=2",
            "--compile",
            "--model_type",
            "z_image",
        ),
    )
    assert preset.danceopd.rollout_steps == 8
    assert preset.model_type == "z_image"
    assert preset.values == {"seed": 1}, "whether a flag wins is the toolkit's parser's business"
    assert preset.flags == {"seed": ["5"], "network_args": ["a=1", "b=2"], "compile": []}


def test_the_flag_chooses_the_toolkit(split):
    assert split(HOSTED, "--toolkit", "sd-scripts").toolkit == "sd-scripts"
    assert split(HOSTED.replace("musubi-tuner", "native"), "--toolkit=sd-scripts").toolkit == "sd-scripts"


def test_our_paths_fall_back_to_the_presets_folder(split, tmp_path, monkeypatch):
    (tmp_path / "toolkit").mkdir()
    (tmp_path / "style.safetensors").touch()
    (tmp_path / "style.txt").touch()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    text = HOSTED.replace("[danceopd]\n", '[danceopd]\ntoolkit_dir = "toolkit"\n')
    preset = split(text + '[danceopd.prompts]\nstyle = "style.txt"\n')
    assert preset.danceopd.toolkit_dir == str(tmp_path / "toolkit")
    assert preset.danceopd.teachers["style"].loras == [str(tmp_path / "style.safetensors")]
    assert preset.danceopd.prompts == {"style": [str(tmp_path / "style.txt")]}
    (elsewhere / "toolkit").mkdir()
    assert split(text).danceopd.toolkit_dir == "toolkit", "the current directory comes first"


def test_datasets_of_teachers(split):
    preset = split(HOSTED + '[danceopd.datasets]\nbase = 1\nstyle = [2, "cache/style"]\n')
    assert preset.danceopd.datasets == {"base": 1, "style": [2, "cache/style"]}
    assert split(HOSTED + '[danceopd.datasets]\nbase = "a"\n').danceopd.datasets == {"base": "a"}


def with_key(line: str) -> str:
    return HOSTED.replace("[danceopd]\n", f"[danceopd]\n{line}\n")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (HOSTED.replace("musubi-tuner", "musubi"), ["toolkit = 'musubi'", 'Did you mean "musubi-tuner"?']),
        (HOSTED + "[a]\nseed = 1\n[b]\nseed = 2\n", ['"seed" is given twice', "[a]", "[b]"]),
        ("seed = 1\n" + HOSTED + "[b]\nseed = 1\n", ['"seed" is given twice', "before all sections", "[b]"]),
        (HOSTED + "[network.more]\na = 1\n", ["[network.more] is a table"]),
        (HOSTED + "[network]\nnetwork_args = { a = 1 }\n", ["[network.network_args] is a table"]),
        (HOSTED + "[[datasets]]\na = 1\n", ["[[datasets]] is a table", "dataset_config"]),
        (HOSTED + "[[a.datasets]]\nb = 1\n", ["[[a.datasets]] is a table"]),
        (with_key("rollout_step = 4"), ['"rollout_step" in [danceopd]', 'Did you mean "rollout_steps"?']),
        (with_key("seed = 4"), ['"seed" in [danceopd]', "in another section"]),
        (with_key('lora_targets = ["to_q"]'), ["lora_targets", '"musubi-tuner"', "network_args"]),
        (with_key('student_init = "merge_sum"'), ['student_init = "merge_sum"', "network_weights"]),
        (with_key("rollout_steps = 0"), ["rollout_steps = 0", "1 or more"]),
        (HOSTED + '[danceopd.teachers.x]\ncheckpoint = "a"\n', ["[danceopd.teachers.x] checkpoint", "into a LoRA"]),
        (HOSTED + '[danceopd.teachers.x]\ncheckpoint = "a"\nextract_rank = 8\n', ["into a LoRA", '"native"']),
        ('[danceopd]\ntoolkit = "sd-scripts"\n', ["no teacher"]),
        (HOSTED + "model_type = 3\n[danceopd.datasets]\n", ["[danceopd.teachers.style]", '"model_type"']),
        (HOSTED + "[a]\nmodel_type = 3\n", ["model_type = 3", "string"]),
        (HOSTED + "[danceopd.datasets]\nstile = 1\n", ["[danceopd.datasets] names stile", 'Did you mean "style"?']),
        (HOSTED + "[danceopd.datasets]\nstyle = 0\n", ["style = 0", "number 1"]),
        (HOSTED + "[danceopd.datasets]\nstyle = [1, 0]\n", ["style = 0", "number 1"]),
        (HOSTED + "[danceopd.datasets]\nstyle = 1.5\n", ["style = 1.5", "list of integer or string"]),
        (HOSTED + "[danceopd.datasets]\nstyle = []\n", ["[danceopd.datasets] style is empty"]),
        (
            HOSTED.replace("musubi-tuner", "sd-scripts") + "[danceopd.datasets]\nstyle = 1\n",
            ['"musubi-tuner"', '"sd-scripts"', "custom_attributes.teacher"],
        ),
    ],
)  # fmt: skip
def test_what_is_wrong(problem, text, parts):
    message = problem(text)
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ('[danceopd]\ntoolkit_dir = "x"\n', ['toolkit_dir = "x"', '"sd-scripts" or "musubi-tuner"', '"native"']),
        ("[danceopd.datasets]\nbase = 1\n", ["[danceopd.datasets]", '"musubi-tuner"', '"native"']),
    ],
)
def test_native_presets_refuse_what_is_a_toolkits(tmp_path, line, parts):
    (tmp_path / "preset.toml").write_text(f'pretrained_model_name_or_path = "a"\n{line}[danceopd.teachers.base]\n')
    with pytest.raises(UserError) as error:
        load_preset(tmp_path / "preset.toml")
    for part in parts:
        assert part in str(error.value)


def test_a_native_key_given_twice_names_both_sections(tmp_path):
    (tmp_path / "preset.toml").write_text("[training]\nseed = 1\n[saving]\nseed = 2\n")
    with pytest.raises(UserError, match=re.escape('"seed" is given twice, in [training] and in [saving]')):
        load_preset(tmp_path / "preset.toml")


def test_wrong_flags(problem):
    assert "--rollout_steps four: expected integer" in problem(HOSTED, "--rollout_steps", "four")
    assert "--rollout_steps needs a value" in problem(HOSTED, "--rollout_steps")
    assert 'Did you mean "' not in problem(HOSTED, "--toolkit", "ai")
    assert "--toolkit ai" in problem(HOSTED, "--toolkit", "ai")


def test_keys_that_only_a_gui_reads_are_left_out(split):
    preset = split('LoRA_type = "Standard"\nnetwork_dim = 4\nsdxl_no_half_vae = true\n' + HOSTED)
    assert preset.values == {"network_dim": 4}
    assert preset.notes == ["left out because only a training GUI reads them: LoRA_type, sdxl_no_half_vae"]
    assert split().notes == []


def test_an_empty_toolkit_is_the_native_one(split):
    assert split(HOSTED.replace("musubi-tuner", "")) is None

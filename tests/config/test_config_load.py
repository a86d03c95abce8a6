"""A preset file and command-line flags become one checked preset."""

from __future__ import annotations

import dataclasses
import re

import pytest

from danceopd_ext.config import load_preset
from danceopd_ext.config.explain import explain
from danceopd_ext.config.load import TABLES, flat_keys
from danceopd_ext.config.schema import SECTIONS, Teacher
from danceopd_ext.errors import UserError
from danceopd_ext.toolkits.run import parse_command

SMALLEST = '[model]\npretrained_model_name_or_path = "owner/model"\n[danceopd.teachers.base]\n'


@pytest.fixture
def load(tmp_path):
    """Write a preset and read it, with command-line words."""

    def load(text: str = SMALLEST, *words: str):
        path = tmp_path / "preset.toml"
        path.write_text(text, encoding="utf-8")
        return load_preset(*parse_command(["--config", str(path), *words]))

    return load


def test_smallest_preset_has_the_papers_defaults(load):
    preset = load()
    assert (preset.danceopd.rollout_steps, preset.danceopd.query, preset.danceopd.num_queries) == (16, "low_noise", 1)
    assert (preset.network.network_dim, preset.network.network_alpha) == (128, None)
    assert (preset.optimizer.learning_rate, preset.optimizer.max_grad_norm) == (2e-4, 1.0)
    assert (preset.training.max_train_steps, preset.training.gradient_accumulation_steps) == (3000, 4)
    assert preset.training.mixed_precision == "bf16"
    assert preset.danceopd.teachers == {"base": Teacher()}


def test_keys_are_unique_over_sections():
    names = [f.name for cls in SECTIONS.values() for f in dataclasses.fields(cls) if f.name not in TABLES]
    assert len(names) == len(set(names)) == len(flat_keys())


def test_every_key_is_explained():
    text = explain()
    for name in [*flat_keys(), *(field.name for field in dataclasses.fields(Teacher))]:
        rows = re.findall(rf"^\| `{name}` \|.*\| (.*) \|$", text, re.MULTILINE)
        assert len(rows) == 1, name
        assert rows[0].strip().endswith("."), name
    for section in SECTIONS:
        assert f"**[{section}]** " in text
    assert "`[danceopd.prompts]`" in text and "`[danceopd.routes]`" in text


def test_rows_of_the_table_have_four_cells():
    rows = [line for line in explain().splitlines() if line.startswith("| `")]
    assert len(rows) == len(flat_keys()) + len(dataclasses.fields(Teacher))
    assert all(len(re.split(r"(?<!\\)\|", row)) == 6 for row in rows)


def test_section_names_are_for_the_reader(load):
    text = SMALLEST.replace("[model]", "[saving]") + "[model]\nseed = 3\n[logging]\nnetwork_dim = 8\n"
    preset = load(text)
    assert preset.model.pretrained_model_name_or_path == "owner/model"
    assert preset.training.seed == 3
    assert preset.network.network_dim == 8


def test_keys_without_a_section(load):
    assert load("seed = 3\n" + SMALLEST).training.seed == 3


def test_key_given_twice_in_two_sections(load):
    with pytest.raises(UserError, match='"seed" is given twice'):
        load(SMALLEST + "[training]\nseed = 1\n[logging]\nseed = 2\n")


def test_byte_order_mark(tmp_path):
    path = tmp_path / "preset.toml"
    path.write_text(SMALLEST, encoding="utf-8-sig")
    assert load_preset(path).danceopd.teachers


def test_not_utf8(tmp_path):
    path = tmp_path / "preset.toml"
    path.write_text("# café\n" + SMALLEST, encoding="latin-1")
    with pytest.raises(UserError, match="UTF-8"):
        load_preset(path)


@pytest.mark.parametrize(
    ("words", "section", "key", "value"),
    [
        (["--seed", "5"], "training", "seed", 5),
        (["--seed=5"], "training", "seed", 5),
        (["--learning-rate", "1e-3"], "optimizer", "learning_rate", 1e-3),
        (["--learning_rate", "1"], "optimizer", "learning_rate", 1.0),
        (["--network_alpha", "16"], "network", "network_alpha", 16.0),
        (["--gradient_checkpointing"], "training", "gradient_checkpointing", True),
        (["--gradient_checkpointing", "false"], "training", "gradient_checkpointing", False),
        (["--output_name", "5"], "saving", "output_name", "5"),
        (["--output_name", "true"], "saving", "output_name", "true"),
        (["--metadata_title", "My", "LoRA"], "saving", "metadata_title", "My LoRA"),
        (["--metadata_title=a=b"], "saving", "metadata_title", "a=b"),
        (["--mixed_precision", "no"], "training", "mixed_precision", "no"),
        (["--lr_warmup_steps", "0.1"], "optimizer", "lr_warmup_steps", 0.1),
        (["--lr_warmup_steps", "100"], "optimizer", "lr_warmup_steps", 100),
        (["--resolution", "512"], "dataset", "resolution", 512),
        (["--resolution", "512,768"], "dataset", "resolution", "512,768"),
        (["--optimizer_args", "betas=0.9,0.99", "eps=1e-7"], "optimizer", "optimizer_args",
         ["betas=0.9,0.99", "eps=1e-7"]),
        (["--optimizer_args", "betas=(0.9, 0.99)"], "optimizer", "optimizer_args", ["betas=(0.9, 0.99)"]),
        (["--lora_targets", "to_q", "to_k"], "danceopd", "lora_targets", ["to_q", "to_k"]),
        (["--lora_targets", "to_q"], "danceopd", "lora_targets", ["to_q"]),
        (["--max_train_steps", "7", "--seed", "1"], "training", "max_train_steps", 7),
    ],
)  # fmt: skip
def test_the_command_line_wins(load, words, section, key, value):
    preset = load(SMALLEST + "[training]\nmax_train_steps = 2\n[optimizer]\nlearning_rate = 0.5\n", *words)
    found = getattr(getattr(preset, section), key)
    assert found == value
    assert type(found) is type(value)


def test_config_file_is_another_name(tmp_path):
    assert parse_command(["--config_file", "a.toml"]) == ("a.toml", {})


def test_every_default_passes_its_own_checks(load):
    """A key written with its default changes nothing."""
    preset = load()
    for section, cls in SECTIONS.items():
        for field in dataclasses.fields(cls):
            value = getattr(getattr(preset, section), field.name)
            if field.name in TABLES or value is None or field.name == "pretrained_model_name_or_path":
                continue
            words = [str(v) for v in value] if isinstance(value, list) else [str(value)]
            if words and words != [""]:
                assert load(SMALLEST, f"--{field.name}", *words) == preset, field.name


def test_relative_paths_fall_back_to_the_presets_folder(load, tmp_path, monkeypatch):
    home, elsewhere = tmp_path, tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("style.safetensors", "words.txt", "data.toml", "samples.txt"):
        (home / name).write_text("", encoding="utf-8")
    (elsewhere / "samples.txt").write_text("", encoding="utf-8")
    (home / "model").mkdir()
    monkeypatch.chdir(elsewhere)
    preset = load(
        'pretrained_model_name_or_path = "model"\ndataset_config = "data.toml"\nsample_prompts = "samples.txt"\n'
        'output_dir = "model"\nnetwork_weights = "missing.safetensors"\n'
        '[danceopd.teachers.a]\nlora = ["style.safetensors", "owner/hub"]\n'
        '[danceopd.teachers.b]\ncheckpoint = "model"\n'
        '[danceopd.prompts]\na = "words.txt"\n'
    )
    assert preset.model.pretrained_model_name_or_path == str(home / "model")
    assert preset.dataset.dataset_config == str(home / "data.toml")
    assert preset.danceopd.teachers["a"].loras == [str(home / "style.safetensors"), "owner/hub"]
    assert preset.danceopd.teachers["b"].checkpoint == str(home / "model")
    assert preset.danceopd.prompts == {"a": [str(home / "words.txt")]}
    assert preset.sampling.sample_prompts == "samples.txt", "the current folder comes first"
    assert preset.network.network_weights == "missing.safetensors", "what is nowhere stays as it was written"
    assert preset.saving.output_dir == "model", "output goes to the current folder"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[danceopd]\nteachers = 3\n", "must be a table"),
        ("[danceopd.teachers]\nstyle = 'a.safetensors'\n", "section of its own"),
        ("[danceopd.prompts]\nbase = 3\n", "string or list of string"),
        ("[danceopd.routes]\nbase = '1'\n", "without quotes"),
        ("[danceopd.routes]\nbse = 1\n", 'Did you mean "base"'),
        ("sdpa = true\nxformers = true\n", "choose one"),
        ("student_init = 'merge_sum'\nnetwork_weights = 'a'\n", "give only one"),
    ],
)
def test_wrong_tables(load, text, message):
    known = SMALLEST if "teachers" not in text else SMALLEST.replace("[danceopd.teachers.base]\n", "")
    with pytest.raises(UserError, match=re.escape(message)):
        load(known.replace("[model]", text + "[model]") if "[" not in text else known + text)


@pytest.mark.parametrize("prompt", ["a red ball", "a red ball on a white table, " * 20])
def test_a_prompt_where_its_file_belongs(load, prompt):
    with pytest.raises(
        UserError, match=r"\[danceopd.prompts\] base = .a red ball.*expected the name of a file"
    ) as caught:
        load(SMALLEST + f'[danceopd.prompts]\nbase = ["words.txt", "{prompt}"]\n')
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("value", ["x" * 300, "~nobody_at_all/x"])
def test_what_cannot_be_the_name_of_a_file_is_left_to_whoever_opens_it(load, value):
    preset = load(f'dataset_config = "{value}"\n' + SMALLEST + f'lora = "{value}"\n')
    assert preset.dataset.dataset_config == preset.danceopd.teachers["base"].lora == value


def test_a_null_character_is_told_with_its_key(load):
    with pytest.raises(UserError, match=r"danceopd\.teachers\.base\.lora has a null character at position 2"):
        load(SMALLEST + 'lora = "a\\u0000b"\n')


def test_no_model(load):
    with pytest.raises(UserError, match="pretrained_model_name_or_path is missing"):
        load("[danceopd.teachers.base]\n")


def test_teacher_strengths():
    assert Teacher(lora=["a", "b"], strength=0.5).strengths == [0.5, 0.5]
    assert Teacher(lora=["a", "b"], strength=[0.5, 2.0]).strengths == [0.5, 2.0]
    assert Teacher(lora="a").loras == ["a"]
    assert Teacher().loras == []


@pytest.mark.parametrize("value", ["9" * 5000, "[" * 5000 + "]" * 5000])
def test_a_value_that_no_parser_can_hold(tmp_path, value):
    path = tmp_path / "preset.toml"
    path.write_text(f"seed = {value}\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"preset\.toml") as caught:
        load_preset(path)
    assert len(str(caught.value)) < 1000

"""Empty texts, "None" and zeros, which GUIs write for what is not set, mean that; `~` is the home folder."""

from __future__ import annotations

import dataclasses

import pytest

from danceopd_ext.config import Teacher, load_preset
from danceopd_ext.config.fields import key_types, words_taken
from danceopd_ext.config.load import TABLES, flat_keys
from danceopd_ext.config.schema import PART_KEYS, SECTIONS
from danceopd_ext.errors import UserError
from danceopd_ext.toolkits.run import parse_command

MODEL = {"pretrained_model_name_or_path": '"owner/model"'}
#: keys whose name or help says that they take a file or folder
PATHS = [
    "pretrained_model_name_or_path", "components_from", "dataset_config", "text_encoder_cache_dir", "network_weights",
    "output_dir", "resume", "sample_prompts", "logging_dir", *PART_KEYS,
]  # fmt: skip
FLAT = {f.name: (f, key_types(cls)[f.name]) for cls in SECTIONS.values() for f in dataclasses.fields(cls)}


@pytest.fixture
def load(tmp_path):
    """Read a preset with these flat keys, as TOML, and with command-line words."""

    def load(keys=None, *words: str, end: str = "[danceopd.teachers.base]\n"):
        path = tmp_path / "preset.toml"
        lines = [f"{name} = {value}\n" for name, value in {**MODEL, **(keys or {})}.items()]
        path.write_text("".join(lines) + end, encoding="utf-8")
        return load_preset(*parse_command(["--config", str(path), *words]))

    return load


@pytest.mark.parametrize("name", [name for name in FLAT if name not in (*TABLES, *MODEL)])
def test_an_empty_text_is_the_default(load, name):
    assert load({name: '""'}) == load() == load({}, f"--{name}", "")


@pytest.mark.parametrize(
    "name", [name for name, (_, kind) in FLAT.items() if name not in TABLES and kind is not str and kind != list[str]]
)
@pytest.mark.parametrize("word", ["None", "null"])
def test_the_word_none_is_the_default(load, name, word):
    assert load({name: f'"{word}"'}) == load() == load({}, f"--{name}", word)


def test_a_text_may_be_the_word_none(load):
    assert load({"output_name": '"None"'}).saving.output_name == "None"


def test_an_empty_model_is_missing(load):
    with pytest.raises(UserError, match="pretrained_model_name_or_path is missing"):
        load({"pretrained_model_name_or_path": '""'})


ZERO_IS_UNSET = [
    "network_alpha", "save_every_n_steps", "save_last_n_steps", "save_last_n_steps_state", "sample_every_n_steps",
    "rollout_batch_size", "match_batch_size", "lr_scheduler_num_cycles", "lr_scheduler_power",
    "text_encoder_batch_size",
]  # fmt: skip


@pytest.mark.parametrize("name", ZERO_IS_UNSET)
def test_zero_is_the_default_where_it_cannot_be_a_value(load, name):
    assert load({name: "0"}) == load() == load({}, f"--{name}", "0")


@pytest.mark.parametrize("name", ["seed", "lr_warmup_steps", "max_grad_norm", "network_dropout"])
def test_zero_is_a_value_where_it_can_be_one(load, name):
    section = getattr(load({name: "0"}), flat_keys()[name])
    assert getattr(section, name) == 0 and getattr(section, name) is not None


@pytest.mark.parametrize(
    "name", ["max_train_steps", "network_dim", "train_batch_size", "rollout_steps", "learning_rate"]
)
def test_zero_of_what_a_run_must_have_is_refused(load, name):
    """A run of no steps is more likely a mistake than a wish for the default."""
    with pytest.raises(UserError, match=rf"{name} = 0.*must be"):
        load({name: "0"})


def test_every_number_is_thought_of():
    """A number whose smallest value is above 0 either takes 0 for "not set", or is one that a run must have."""
    positive = [
        name for name, (field, _) in FLAT.items()
        if "within" in field.metadata
        and ((field.metadata["within"].minimum or 0) > 0 or field.metadata["within"].above is not None)
    ]  # fmt: skip
    needed = [
        "resolution", "network_dim", "max_train_steps", "train_batch_size", "gradient_accumulation_steps",
        "rollout_steps", "num_queries", "flowopd_group_size", "sde_eta", "ppo_clip", "advantage_clip",
        "student_guidance_scale",
    ]  # fmt: skip
    assert sorted(positive) == sorted([*ZERO_IS_UNSET, *needed, "learning_rate"])


def test_empty_lists_and_empty_texts_in_lists(load):
    assert load({"optimizer_args": '["", "eps=1e-7"]'}).optimizer.optimizer_args == ["eps=1e-7"]
    assert load({"lora_targets": '[""]'}) == load({"lora_targets": "[]"}) == load()


def test_empty_keys_of_a_teacher(load):
    end = '[danceopd.teachers.a]\nlora = "a.safetensors"\ncheckpoint = ""\nextract_rank = 0\nstrength = ""\n'
    assert load(end=end).danceopd.teachers == {"a": Teacher(lora="a.safetensors")}


@pytest.mark.parametrize(
    "keys", ['lora = ""', "lora = []", 'lora = [""]', 'checkpoint = ""', "lora = []\nstrength = 1"]
)
def test_a_teacher_whose_file_was_not_filled_in(load, keys):
    """Nobody can tell whether the base is meant."""
    with pytest.raises(
        UserError, match=r"\[danceopd.teachers.a\]: (lora|checkpoint) is empty.*without keys is the base"
    ):
        load(end=f"[danceopd.teachers.a]\n{keys}\n")


@pytest.mark.parametrize(
    ("keys", "part"),
    [
        ('lora = "a"\nstrength = 0', "strength = 0.0: this teacher changes nothing"),
        ('lora = ["a", "b"]\nstrength = 0.0', "this teacher changes nothing"),
        ('lora = ["a", "b"]\nstrength = [0, 0]', "this teacher changes nothing"),
        ('lora = ["a", "b"]\nstrength = [1, 0]', "b changes nothing"),
        ("strength = 0.5", "strength works only for a teacher with lora"),
        ("ignore_text_encoder = true", "ignore_text_encoder works only for a teacher with lora"),
    ],
)
def test_a_teacher_without_effect(load, keys, part):
    with pytest.raises(UserError) as error:
        load(end=f"[danceopd.teachers.a]\n{keys}\n")
    assert str(error.value).startswith("[danceopd.teachers.a]: ") and part in str(error.value)


def test_empty_prompt_files_are_not_given(load):
    end = '[danceopd.teachers.a]\n[danceopd.prompts]\na = ["", "p.txt"]\n'
    assert load(end=end).danceopd.prompts == {"a": ["p.txt"]}
    assert load(end=end.replace('["", "p.txt"]', '""')).danceopd.prompts == {}


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home folder, on Linux, macOS and Windows."""
    folder = tmp_path / "home"
    folder.mkdir()
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(folder))
    return folder


@pytest.mark.parametrize("name", PATHS)
def test_the_home_folder(load, home, name):
    preset = load({name: '"~/x.toml"'})
    assert getattr(getattr(preset, flat_keys()[name]), name) == str(home) + "/x.toml"


def test_the_home_folder_of_tables(load, home):
    preset = load(
        end='[danceopd.teachers.a]\nlora = ["~/a", "owner/b"]\n[danceopd.teachers.b]\nlora = "~/c"\n'
        '[danceopd.teachers.c]\ncheckpoint = "~/d"\n[danceopd.prompts]\na = "~/p.txt"\n'
    ).danceopd
    assert preset.teachers["a"].loras == [f"{home}/a", "owner/b"]
    assert (preset.teachers["b"].lora, preset.teachers["c"].checkpoint) == (f"{home}/c", f"{home}/d")
    assert preset.prompts == {"a": [f"{home}/p.txt"]}


def test_a_name_that_only_begins_like_the_home_folder(load):
    assert load({"output_dir": '"~x"'}).saving.output_dir == "~x"


def test_every_path_is_marked_as_one():
    marked = [name for name, (field, _) in FLAT.items() if field.metadata.get("path")]
    assert sorted(marked) == sorted([*PATHS, "toolkit_dir"])


@pytest.mark.parametrize(
    ("name", "word", "right"),
    [
        *(("mixed_precision", word, "no") for word in ("fp32", "FP32", "float32", "float")),
        *(("save_precision", word, "float") for word in ("fp32", "float32", "no")),
        *((name, word, right) for name in ("mixed_precision", "save_precision")
          for word, right in (("half", "fp16"), ("float16", "fp16"), ("bfloat16", "bf16"))),
        *((name, word, right) for name in ("quantize", "quantize_text_encoders")
          for word, right in (("4bit", "nf4"), ("8bit", "int8"), ("float8", "fp8"), ("nf-4", "nf4"))),
    ],
)  # fmt: skip
def test_precisions_under_their_other_names(load, name, word, right):
    for words in ({name: f'"{word}"'}, ()), ({}, (f"--{name}", word)):
        with pytest.raises(UserError, match=rf'Did you mean "{right}"\?'):
            load(words[0], *words[1])


@pytest.mark.parametrize("name", ["mixed_precision", "save_precision"])
def test_fp8_is_no_slip_for_fp16(load, name):
    with pytest.raises(UserError) as error:
        load({name: '"fp8"'})
    assert "Did you mean" not in str(error.value)


def test_words_that_are_meant_are_among_those_that_are_taken():
    for name, (field, kind) in FLAT.items():
        for right in filter(None, field.metadata.get("meant", {}).values()):
            assert right in words_taken(kind), name


def test_a_list_written_as_one_text(load):
    with pytest.raises(UserError, match=r'Write optimizer_args = \["eps=1e-7", "betas=0.9,0.99"\]'):
        load({"optimizer_args": '"eps=1e-7 betas=0.9,0.99"'})


def test_fp8_base_is_quantize_fp8(load):
    assert load({"fp8_base": "true"}).quantize == load({"quantize": '"fp8"'}).quantize == "fp8"
    assert load({"fp8_base": "true", "quantize": '"fp8"'}).quantize == "fp8"
    assert load({}).quantize is None
    with pytest.raises(UserError, match=r'fp8_base is true and quantize = "nf4": choose one'):
        load({"fp8_base": "true", "quantize": '"nf4"'})

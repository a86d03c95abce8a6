"""Keys of sd-scripts and its GUIs: each is known by name, and all of them are answered in one message."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from danceopd_ext.config import load_preset
from danceopd_ext.config.foreign_keys import FOREIGN_KEYS, GROUPS, is_gui_key
from danceopd_ext.config.load import flat_keys
from danceopd_ext.errors import UserError
from danceopd_ext.toolkits.run import parse_command

SMALLEST = 'pretrained_model_name_or_path = "owner/model"\n'
END = "[danceopd.teachers.base]\n"
HERE = Path(__file__).parent


@pytest.fixture
def load(tmp_path):
    """Write a preset with these lines and read it, with command-line words."""

    def load(lines: str = "", *words: str):
        path = tmp_path / "preset.toml"
        path.write_text(SMALLEST + lines + "\n" + END, encoding="utf-8")
        return load_preset(*parse_command(["--config", str(path), *words]))

    return load


@pytest.fixture
def problem(load):
    """The message of a preset that is wrong."""

    def problem(lines: str = "", *words: str) -> str:
        with pytest.raises(UserError) as error:
            load(lines, *words)
        return str(error.value)

    return problem


def names_in(file: str) -> list[str]:
    """The words of a list of keys."""
    lines = (HERE / file).read_text(encoding="utf-8").splitlines()
    return " ".join(line for line in lines if not line.startswith("#")).split()


@pytest.mark.parametrize("file", ["sd_scripts_arguments.txt", "kohya_ss_keys.txt", "lora_scripts_keys.txt"])
def test_every_key_of_other_programs_is_known(file):
    names = names_in(file)
    assert len(names) > 100
    assert [n for n in names if n not in flat_keys() and n not in FOREIGN_KEYS and not is_gui_key(n)] == []


def test_each_key_has_one_answer():
    names = [name for group in GROUPS for name in group.names.split()]
    assert len(names) == len(set(names))
    assert [name for name in names if name in flat_keys() or is_gui_key(name)] == []


def test_no_argument_of_sd_scripts_is_taken_for_a_guis():
    assert [name for name in names_in("sd_scripts_arguments.txt") if is_gui_key(name)] == []


def test_answers_name_keys_that_exist():
    """`write x`, `set x` and the like: x is a key of the schema."""
    told = {name for group in GROUPS for name in re.findall(r"\b[a-z]+(?:_[a-z]+)+\b", group.answer)}
    of_schedules_and_accelerate = {"num_decay_steps", "min_lr_rate", "num_processes"}
    assert told - {*flat_keys()} == of_schedules_and_accelerate


def test_all_of_them_in_one_message(problem):
    message = problem(
        'train_data_dir = "img"\nepoch = 10\nunet_lr = 0.0003\ncache_latents = true\nvae_batch_size = 4\n'
        'LoRA_type = "Standard"\nnetwork_dimm = 4\n[trainer]\nx = 1\n',
        "--save_every_n_epochs",
        "1",
        "--rollout_stepss",
        "4",
    )
    for part in (
        "preset.toml: these cannot be used here:",
        '- unknown section [trainer]. Did you mean "training"?',
        '- unknown key "network_dimm". Did you mean "network_dim"?',
        '- unknown argument --rollout_stepss. Did you mean "rollout_steps"?',
        "- train_data_dir: name the data in [danceopd.prompts]",
        "- unet_lr: write its value as learning_rate.",
        "- cache_latents, vae_batch_size: prompts and pictures are encoded once",
        "Only a training GUI reads these, and they may stay: LoRA_type.",
    ):
        assert part in message
    assert re.search(r"- epoch: training is measured in steps, not epochs .*max_train_steps", message)
    assert re.search(
        r"- --save_every_n_epochs: training is measured in steps, not epochs .*save_every_n_steps", message
    )
    assert message.index("unet_lr") < message.index("have no effect here and may stay") < message.index("cache_latents")


@pytest.mark.parametrize("name", ["max_train_epochs", "epoch", "save_every_n_epochs", "sample_every_n_epochs"])
def test_epochs_are_not_steps(problem, name):
    message = problem(f"{name} = 10\n")
    assert f"{name}: training is measured in steps, not epochs" in message
    assert "a number of steps" in message and "Did you mean" not in message


@pytest.mark.parametrize("name", ["epochs", "max_epochs", "num_epochs", "n_epoch"])
def test_no_hint_from_epochs_to_steps(problem, name):
    assert "Did you mean" not in problem(f"{name} = 10\n")


def test_a_slip_in_a_foreign_key_is_answered_as_that_key(problem):
    assert "sd-scripts has max_train_epochs: training is measured in steps" in problem("max_train_epoch = 3\n")


def test_no_hint_that_is_not_near(problem):
    for name in ("cache_latent_files", "quantize", "optimizer_offload"):
        assert "save_last_n_steps" not in problem(f"{name} = true\n"), name


def test_a_single_problem_is_one_line(problem):
    assert problem("unet_lr = 1e-3\n").endswith("preset.toml: unet_lr: write its value as learning_rate.")
    assert problem("", "--unet_lr", "1e-3").endswith("--unet_lr: write its value as learning_rate.")
    assert "\n" not in problem("unet_lr = 1e-3\n")


def test_a_teachers_key_outside_its_section(problem):
    assert "[danceopd.teachers.NAME]" in problem('lora = "a.safetensors"\n')


def test_harmless_ones_are_left_out_with_a_note(load):
    notes = load(
        'cache_latents = true\nnetwork_module = "networks.lora_flux"\nloss_type = "l2"\nmin_snr_gamma = 5\n'
        "learning_rate = 3e-4\nunet_lr = 3e-4\nmax_timestep = 1000\nenable_bucket = true\n",
        "--sample_sampler",
        "euler_a",
    ).notes
    assert any("cache_latents (prompts and pictures are encoded once" in note for note in notes)
    for name in ("network_module", "loss_type", "min_snr_gamma", "unet_lr", "max_timestep", "enable_bucket"):
        assert sum(re.search(rf"\b{name}\b", note) is not None for note in notes) == 1, name
    assert any("--sample_sampler" in note for note in notes)


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ('network_module = "lycoris.kohya"', "plain LoRA"),
        ('network_args = ["conv_dim=4"]', "lora_targets"),
        ('loss_type = "huber"', "mean squared error"),
        ("learning_rate = 1e-4\nunet_lr = 3e-4", "learning_rate"),
        ("max_timestep = 500", "query in [danceopd]"),
        ("text_encoder_lr = 1e-5", "not the text encoders"),
        ("split_attn = true", 'toolkit = "sd-scripts" takes it'),
        ("fp8_base_unet = true", 'write quantize = "fp8"'),
        ("fp8_scaled = true", 'write quantize = "fp8"'),
        ("fp8_llm = true", 'write quantize_text_encoders = "fp8"'),
        ('t5_tokenizer_path = "t5"', "components_from"),
        ('gemma2 = "gemma.safetensors"', "no family that is trained here has this part"),
        ('base_weights = ["a.safetensors"]', "network_weights"),
        ('dataset_config = "d.toml"\nshuffle_caption = true', "the dataset file that dataset_config names"),
        ("use_8bit_adam = true", 'optimizer_type = "AdamW8bit"'),
        ('wandb_api_key = "secret"', "wandb login"),
        ('huggingface_repo_id = "a/b"', "upload the finished file yourself"),
        ("[[datasets]]\nresolution = 64", "dataset_config"),
    ],
)
def test_harmful_ones_are_refused_with_place_or_reason(problem, line, part):
    message = problem(line + "\n")
    assert part in message
    assert "secret" not in message


def test_switched_off_ones_are_not_mentioned(load):
    preset = load(
        'train_data_dir = ""\nfp8_base = false\nblocks_to_swap = 0\nnetwork_args = []\nnoise_offset = 0.0\n'
        'text_encoder_lr = [0.0, 0.0]\nwandb_api_key = "None"\nbase_weights = [""]\nepoch = 0\n'
    )
    assert preset.notes == []


def test_a_refusal_names_the_switched_off_ones_too(problem):
    message = problem("epoch = 10\nmax_data_loader_n_workers = 0\ncache_latents = true\ntext_encoder_lr = 0.0\n")
    refused, may_stay = message.split("may stay:")
    assert "epoch" in refused and "text_encoder_lr" not in refused
    assert "- cache_latents, max_data_loader_n_workers: " in may_stay and "- text_encoder_lr: only the" in may_stay


def test_keys_that_only_a_gui_reads_are_left_out_with_one_note(load):
    notes = load('LoRA_type = "Standard"\nmodel_train_type = "flux-lora"\nsdxl_no_half_vae = true\n').notes
    assert notes == ["left out because only a training GUI reads them: LoRA_type, model_train_type, sdxl_no_half_vae"]


def test_sections_of_other_programs_are_dissolved(load):
    preset = load(
        "[additional_network_arguments]\nnetwork_dim = 8\n[sample_prompt]\nseed = 3\n[others]\nlr_warmup = 0\n"
    )
    assert (preset.network.network_dim, preset.training.seed) == (8, 3)


@pytest.mark.parametrize(
    ("name", "text", "part"),
    [
        ("a.json", '{"LoRA_type": "Standard", "epoch": 10}', "kohya_ss' GUI saves its settings; a preset is TOML"),
        ("a.yaml", "job: extension\nconfig:\n  name: x\n", "is YAML"),
    ],
)
def test_settings_of_other_programs_are_named_for_what_they_are(tmp_path, name, text, part):
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=part):
        load_preset(tmp_path / name)

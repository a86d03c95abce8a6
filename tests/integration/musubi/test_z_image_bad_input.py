"""Everything wrong that we know of: one message that names key or file and remedy, before a model is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from danceopd_ext.errors import UserError
from tests.integration.musubi.runs import apart, here, write_preset

BASE = "[danceopd.teachers.base]\n"
TWO = "[danceopd.teachers.style]\nlora = {style!r}\n" + BASE
PROMPTS = BASE + "[danceopd.prompts]\nbase = {prompts!r}\n"

#: name -> our section, musubi's arguments, and what the message must say
CASES: dict[str, tuple[str, dict, tuple[str, ...]]] = {
    "no_model_type": (BASE, {"model_type": ""}, ("model_type is missing", "z_image")),
    "wrong_model_type": (BASE, {"model_type": "z-image"}, ('model_type = "z-image"', 'Did you mean "z_image"')),
    "unknown_key": (BASE, {"network_dimm": 4}, ('unknown key network_dimm', 'Did you mean "network_dim"')),
    "not_a_flow_model": (BASE, {"model_type": "sdxl"}, ("sdxl is not a flow-matching model",)),
    "guidance_without_effect": (BASE, {"guidance_scale": 4.0}, ("guidance_scale = 4 has no effect", "Z-Image")),
    "wandb_is_missing": (BASE, {"log_with": "wandb"}, ("wandb is not installed", "fused.log.jsonl")),
    "refused_key": (BASE, {"timestep_sampling": "shift"}, ("timestep_sampling", "noise levels are not random")),
    "other_network": (BASE, {"network_module": "lycoris.kohya"}, ("network_module", "networks.lora_zimage")),
    "no_data": (BASE, {"dataset_config": None}, ("no data", "[danceopd.prompts]", "dataset_config")),
    "output_is_a_file": (BASE, {"output_dir": __file__}, ("output_dir = ", "is a file", "Name a folder")),
    "no_dit": (BASE, {"dit": None}, ("dit is missing",)),
    "no_such_dit": (BASE, {"dit": "nowhere.safetensors"}, ('dit = "nowhere.safetensors"', "no such file")),
    "no_such_dataset": (BASE, {"dataset_config": "no.toml"}, ('dataset_config = "no.toml"', "no such file")),
    "no_vae": (BASE, {"sample_prompts": "samples.txt"}, ("vae is missing", "sample_prompts")),
    "no_lora": ("[danceopd.teachers.style]\nlora = 'no.safetensors'\n", {}, ("teachers.style", "no.safetensors")),
    "all_routes_off": (BASE + "[danceopd.routes]\nbase = 0\n", {}, ("[danceopd.routes]", "all weights are 0")),
    "no_teacher_of_datasets": (TWO, {}, ("1 (", "2 (", "has no teacher", "teachers: style, base")),
    "one_dataset_left": (
        TWO + "[danceopd.datasets]\nstyle = 1\n", {}, ("2 (", "has no teacher", "Write NAME = 2"),
    ),
    "unknown_teacher": (TWO + "[danceopd.datasets]\nstile = 1\n", {}, ("[danceopd.datasets]", "stile")),
    "no_such_number": (
        TWO + "[danceopd.datasets]\nstyle = 3\nbase = [1, 2]\n", {}, ("style = 3", "no such dataset", "1 (", "2 ("),
    ),
    "no_such_folder": (
        TWO + "[danceopd.datasets]\nstyle = 'other/cache'\nbase = 2\n", {}, ("other/cache", "no such dataset"),
    ),
    "two_teachers_of_one": (
        TWO + "[danceopd.datasets]\nstyle = 1\nbase = [1, 2]\n", {}, ("dataset 1", "to style and to base"),
    ),
    "teacher_without_data": (
        TWO + "[danceopd.datasets]\nbase = [1, 2]\n", {}, ("teacher style has no data", "style = NUMBER"),
    ),
    "no_text_encoder": (PROMPTS, {}, ("text_encoder is missing", "prompts")),
    "guidance_without_text_encoder": (
        "[danceopd.teachers.base]\nguidance_scale = 2.0\n", {}, ("text_encoder is missing", "guidance"),
    ),
    "odd_size": (
        PROMPTS, {"text_encoder": "{text_encoder}", "resolution": 1000}, ("1000x1000", "multiples of 16"),
    ),
    "no_size": (PROMPTS, {"text_encoder": "{text_encoder}", "resolution": "wide"}, ("resolution", "'wide'")),
    "no_batch": (PROMPTS, {"text_encoder": "{text_encoder}", "train_batch_size": 0}, ("train_batch_size = 0",)),
    "no_prompt_file": (
        BASE + "[danceopd.prompts]\nbase = 'no.txt'\n", {"text_encoder": "{text_encoder}"}, ("no.txt", "not found"),
    ),
    "no_state": (BASE, {"resume": "nowhere"}, ('resume = "nowhere"', "no such folder")),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_is_wrong_is_told_before_the_model_is_loaded(world, tmp_path, monkeypatch, name):
    from musubi_tuner.zimage import zimage_model

    monkeypatch.setattr(zimage_model, "load_zimage_model", None)
    monkeypatch.chdir(tmp_path)
    Path("samples.txt").write_text("a cat")
    danceopd, values, words = CASES[name]
    danceopd = danceopd.format(style=str(world.style), prompts=str(world.prompts))
    given = {"dit": world.dit, "dataset_config": world.data}
    given |= {k: v.format(text_encoder=world.text_encoder) if isinstance(v, str) else v for k, v in values.items()}
    with pytest.raises(UserError) as problem:
        here(write_preset(tmp_path / "p.toml", danceopd, **given))
    message = str(problem.value)
    assert all(word in message for word in words), message
    assert not (tmp_path / "out").exists()


DATASETS = {
    "not_toml": ("[[datasets\n", ("data.toml", "line 1")),
    "unknown_key": ('[[datasets]]\nimage_directory = "{data}"\nimage_dir = "x"\n', ("data.toml", "image_dir")),
    "nothing_cached": ('[[datasets]]\nimage_directory = "{empty}"\n', ("data.toml", "No training items")),
    "one_cache_for_two": (
        '[[datasets]]\nimage_directory = "{data}"\n[[datasets]]\nimage_directory = "{data}"\n',
        ("data.toml", "cache directory should be unique"),
    ),
    "no_datasets": ("[general]\nbatch_size = 1\n", ("data.toml", "datasets should not be an empty")),
}


@pytest.mark.parametrize("name", DATASETS)
def test_musubis_complaints_about_datasets_are_ours(world, tmp_path, name):
    text, words = DATASETS[name]
    (tmp_path / "empty").mkdir()
    config = tmp_path / "data.toml"
    config.write_text(text.format(data=world.folder / "data" / "style", empty=tmp_path / "empty"))
    with pytest.raises(UserError) as problem:
        here(write_preset(tmp_path / "p.toml", BASE, dit=world.dit, dataset_config=config))
    assert all(word in str(problem.value) for word in words), problem.value


def test_a_lora_of_another_model_names_the_layer(world, tmp_path):
    tensors = load_file(world.style)
    other = {n: torch.zeros(t.shape[0], 32) if n.endswith("to_q.lora_down.weight") else t for n, t in tensors.items()}
    save_file(other, tmp_path / "other.safetensors")
    danceopd = f'[danceopd.teachers.style]\nlora = "{tmp_path / "other.safetensors"}"\n'
    with pytest.raises(UserError, match=r"teachers.style\].*to_q is \(64, 32\).*\(64, 64\) in the model"):
        here(write_preset(tmp_path / "p.toml", danceopd, dit=world.dit, dataset_config=world.data))


def test_states_that_cannot_be_resumed(world, tmp_path):
    values = {"dit": world.dit, "dataset_config": world.data}
    with pytest.raises(UserError, match=r"is not a state of a DanceOPD run.*network_weights"):
        here(write_preset(tmp_path / "p.toml", BASE, resume=world.folder / "data", **values))
    here(write_preset(tmp_path / "p.toml", BASE, save_state=True, **values))
    state = tmp_path / "out" / "fused-state"
    with pytest.raises(UserError, match=r"is at step 2 of max_train_steps = 2.*Raise max_train_steps"):
        here(write_preset(tmp_path / "p.toml", BASE, resume=state, **values))


def test_the_command_says_one_line_and_exits_with_2(world, tmp_path):
    preset = write_preset(tmp_path / "p.toml", BASE, dit=world.dit, dataset_config=tmp_path / "no.toml")
    result = apart("tiny_z_image", preset)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert result.stderr.strip().splitlines()[-1].startswith(f"error: {preset}: dataset_config = ")

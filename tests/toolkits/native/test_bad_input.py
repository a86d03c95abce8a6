"""What is wrong with the preset or the machine is said in one sentence with its remedy, and nothing is written."""

from __future__ import annotations

import importlib.util

import pytest

from danceopd_ext.cli import run
from danceopd_ext.errors import UserError
from danceopd_ext.files import check_writable
from danceopd_ext.toolkits import run as command
from danceopd_ext.toolkits.native import train as train_module
from danceopd_ext.toolkits.run import main
from tests.tiny.presets import SMALL
from tests.toolkits.runs import says

# --- the preset itself


def edited(path, old, new):
    path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    return path


def test_unknown_key(changed, refused):
    path = edited(changed(), "network_dim", "network_rank")
    says(refused(path), path, "network_rank", 'Did you mean "network_')


def test_unknown_section(changed, refused):
    path = edited(changed(), "[training]", "[trainer]")
    says(refused(path), path, "[trainer]", 'Did you mean "training"?')


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("network_dim", '"16"', "integer. Write it without quotes"),
        ("network_dim", "16.5", "integer"),
        ("gradient_checkpointing", '"true"', "true/false. Write it without quotes"),
        ("optimizer_args", '"a=1"', "list of string"),
        ("mixed_precision", '"bfloat16"', '"no" or "fp16" or "bf16". Did you mean "bf16"?'),
        ("query", '"low"', 'Did you mean "low_noise"?'),
        ("network_dim", "0", "1 or more"),
        ("learning_rate", "0", "more than 0"),
        ("learning_rate", "nan", "finite number"),
        ("max_train_steps", "0", "1 or more"),
        ("network_dropout", "1.0", "below 1"),
        ("output_name", '"a/b"', "without folders"),
        ("output_name", '"."', "file name"),
        ("output_name", '"NUL.new"', "file name"),
        ("output_name", '"my\\tlora"', "file name"),
        ("output_name", f'"{"äöü" * 26}"', "156 bytes: at most 150"),
    ],
)
def test_wrong_value(changed, refused, key, value, expected):
    path = changed(**{key: None} if key in SMALL else {})
    edited(path, "[training]", f"[training]\n{key} = {value}")
    says(refused(path), key, expected)


def test_num_queries_above_rollout_steps(changed, refused):
    says(refused(changed(num_queries=5, rollout_steps=4)), "num_queries = 5", "rollout_steps = 4", "4 or less")


def test_toml_syntax_error(changed, refused):
    path = edited(changed(), "[training]", "[training\n")
    says(refused(path), path, "line")


def test_windows_path_in_double_quotes(changed, refused):
    path = edited(changed(), "[saving]", '[saving]\ntraining_comment = "C:\\users\\me"')
    says(refused(path), path, "single quotes")


@pytest.mark.parametrize("key", ["output_dir", "text_encoder_cache_dir", "network_weights", "sample_prompts"])
def test_windows_path_in_double_quotes_that_is_right_toml(changed, refused, key):
    """A line break, a new tab: no file is called so."""
    path = edited(changed(**{key: None}), "[saving]", f'[saving]\n{key} = "C:\\new\\trained"')
    says(refused(path), r"'C:\new\trained'", "line break or a tab", "'single quotes'")


def test_windows_path_of_a_teacher_in_double_quotes(changed, refused):
    says(
        refused(changed({"one": {"lora": "loras\new.safetensors"}})), r"'loras\new.safetensors'", "line break or a tab"
    )


@pytest.mark.parametrize(
    "keys", ["strength = nan", "strength = [inf]", "guidance_scale = inf", "guidance_scale = -nan"]
)
def test_a_teachers_number_that_is_none(changed, refused, keys):
    path = edited(
        changed({"one": {"lora": "x.safetensors"}}), 'lora = "x.safetensors"', f'lora = ["x.safetensors"]\n{keys}'
    )
    says(refused(path), "danceopd.teachers.one", keys.split()[0], "finite number")


@pytest.mark.parametrize("scale", ["0", "0.99", "-3"])
def test_a_guidance_below_none(changed, refused, scale):
    """Diffusers' Z-Image pipeline has 0 for none; as a field 0 would be a teacher that does not hear the prompt."""
    path = edited(changed({"one": {}}), "[danceopd.teachers.one]", f"[danceopd.teachers.one]\nguidance_scale = {scale}")
    says(refused(path), "[danceopd.teachers.one]", f"guidance_scale = {scale}", "1 means no guidance")
    says(refused(changed(), "--student_guidance_scale", scale), f"student_guidance_scale = {scale}", "1 or more")


def test_missing_preset(tmp_path, refused):
    says(refused(tmp_path / "nothing.toml"), "nothing.toml", "does not exist")


def test_no_preset(capsys):
    assert run(main, ["--seed", "3"]) == 2
    says(capsys.readouterr().err, "--config preset.toml")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--network_dims", "4"], 'Did you mean "network_dim"?'),
        (["--network_dim", "four"], "expected integer"),
        (["--output_name"], "--output_name needs a value"),
    ],
)
def test_wrong_argument(changed, refused, arguments, expected):
    says(refused(changed(), *arguments), arguments[0].split()[0], expected)


# --- routes and data


def test_no_teacher(changed, refused):
    says(refused(changed({})), "[danceopd.teachers.NAME]")


def test_route_without_data(changed, refused):
    says(refused(changed({"base": {}, "style": {}}, prompts={})), '"base" has no data', 'base = "prompts.txt"')


def test_empty_prompt_file(changed, refused, tmp_path):
    (tmp_path / "empty.txt").write_text("\n# only a comment\n", encoding="utf-8")
    says(refused(changed(prompts={"base": str(tmp_path / "empty.txt")})), "empty.txt", "one prompt per line")


def test_missing_prompt_file(changed, refused):
    says(refused(changed(prompts={"base": "nowhere.txt"})), "nowhere.txt", "not found")


def test_prompts_of_an_undefined_teacher(changed, refused):
    says(refused(changed({"style": {}}, prompts={"stile": "a.txt"})), "stile", 'Did you mean "style"?')


def test_dataset_of_an_undefined_teacher(changed, refused, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "a.txt").write_text("a cat", encoding="utf-8")
    config = dataset(tmp_path, folder, "stile")
    says(refused(changed({"style": {}}, prompts={}, dataset_config=config)), "dataset.toml", 'Did you mean "style"?')


def test_dataset_without_captions(changed, refused, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    config = dataset(tmp_path, folder, "base")
    says(refused(changed(prompts={}, dataset_config=config)), folder, ".txt")


def dataset(folder, images, teacher):
    path = folder / "dataset.toml"
    path.write_text(
        f"[[datasets]]\nresolution = 16\ncaption_extension = '.txt'\n[[datasets.subsets]]\nimage_dir = '{images}'\n"
        f"custom_attributes = {{ teacher = '{teacher}' }}\n",
        encoding="utf-8",
    )
    return str(path)


def test_resolution_that_the_model_cannot_take(changed, refused):
    says(refused(changed(resolution=18)), "18x18", "multiples of 4", "nearest is 20x20")


# --- the machine


@pytest.mark.parametrize(
    ("keys", "parts"),
    [
        ({"optimizer_type": "AdamV"}, ['"AdamV"', 'Did you mean "AdamW"?']),
        ({"optimizer_type": "no_such_package.Adam"}, ["no_such_package", "find out which package has this module"]),
        ({"optimizer_type": "came_pytorch.CAME"}, ["came_pytorch does not import", "`pip install came-pytorch`"]),
        ({"optimizer_type": "prodigyplus.X"}, ["`pip install prodigy-plus-schedule-free`"]),
        ({"optimizer_type": "torch.optimizers.Adam"}, ["torch.optimizers does not import", "Check the path"]),
        ({"optimizer_type": "torch.optim.NoSuch"}, ["NoSuch"]),
        ({"optimizer_args": ["beta=0.9"]}, ["optimizer_args", "beta"]),
        ({"optimizer_args": ["betas=0.9"]}, ["optimizer_args", "betas"]),
        ({"optimizer_args": ["betas"]}, ["optimizer_args", "name=value"]),
        ({"optimizer_args": ["eps=1e-7,"]}, ["optimizer_args", '"eps=1e-7,"', "comma"]),
        ({"optimizer_args": ["amsgrad=yes"]}, ["optimizer_args", "amsgrad=yes", "true, false"]),
        ({"lr_warmup_steps": 3}, ["lr_warmup_steps = 3", '"constant_with_warmup"']),
        (
            {"optimizer_type": "Prodigy", "learning_rate": 2e-4},
            ["learning_rate = 0.0002", "Prodigy", "default here is 1"],
        ),
        ({"optimizer_type": "AdamW8bit"}, ["AdamW8bit", "needs a GPU", 'use "AdamW"']),
        ({"lr_scheduler": "cosinus"}, ["lr_scheduler", "cosinus", "cosine"]),
        ({"lr_scheduler": "cosine_with_min_lr"}, ["lr_scheduler", "min_lr"]),
        ({"lr_scheduler": "cosine", "lr_scheduler_args": ["speed=2"]}, ["lr_scheduler", "speed"]),
        ({"lr_scheduler": "reduce_lr_on_plateau"}, ["lr_scheduler", "reduce_lr_on_plateau"]),
        ({"attn_mode": "quick"}, ['attn_mode = "quick"', '"sdpa"']),
        ({"xformers": True}, ["xformers", '"sdpa"']),
        ({"mixed_precision": "fp16"}, ["fp16", "GPU", '"bf16"']),
    ],
)
@pytest.mark.parametrize("family", ["sd3", "z_image"])
def test_what_does_not_work_here(changed, refused, family, keys, parts):
    if family == "z_image" and not {"attn_mode", "xformers"} & keys.keys():
        keys = {**keys, "resolution": 32}
    says(refused(changed(family=family, **keys)), *parts)


@pytest.mark.parametrize("log_with", ["wandb", "all"])
def test_a_tracker_that_is_not_installed(changed, refused, monkeypatch, log_with):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "wandb" else find(name, *more))
    says(refused(changed(log_with=log_with)), f'log_with = "{log_with}"', "pip install wandb")


def test_output_below_a_file(changed, refused, tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    says(refused(changed(output_dir=str(tmp_path / "file" / "output"))), "output_dir", "choose another folder")


@pytest.mark.parametrize("key", ["output_dir", "logging_dir", "text_encoder_cache_dir"])
@pytest.mark.parametrize("below", ["", "/x"], ids=["the file", "below it"])
def test_a_file_where_a_folder_is_expected(changed, refused, tmp_path, key, below):
    (tmp_path / "file").write_text("", encoding="utf-8")
    says(refused(changed(**{key: str(tmp_path / "file") + below}, log_with="tensorboard")), key, "is a file")


@pytest.mark.parametrize("name", ["x" * 300, "a\0b"])
def test_output_in_what_cannot_be_a_folder(tmp_path, name):
    with pytest.raises(UserError, match=r"output_dir = .*cannot be written.*choose another folder"):
        check_writable(tmp_path / "above" / name)


def test_unknown_lora_targets(changed, refused):
    says(refused(changed(lora_targets=["to_x"])), "lora_targets", "to_x", "attn.to_q")


def test_one_of_the_defaults_alone_is_refused_where_it_fits_no_layer(changed, refused, single_attention):
    """What the preset names is the user's; the default, which has the same ending, is trained without it."""
    says(refused(changed(model=single_attention, lora_targets=["attn.to_q", "attn2.to_q"])), "attn2.to_q")


def test_only_the_first_process_tells(changed, monkeypatch, capsys):
    def wrong(_):
        raise UserError("something is wrong")

    monkeypatch.setattr(train_module, "train", wrong)
    monkeypatch.setenv("LOCAL_RANK", "1")
    waited = []
    monkeypatch.setattr(command.time, "sleep", waited.append)
    with pytest.raises(SystemExit) as stopped:
        run(main, ["--config", str(changed())])
    assert stopped.value.code == 2
    assert "something is wrong" not in capsys.readouterr().err
    assert waited and waited[0] > 1, "it may end before the first process has told"
    monkeypatch.setenv("LOCAL_RANK", "0")
    says(refused_once(changed(), capsys), "something is wrong")


def refused_once(path, capsys):
    assert run(main, ["--config", str(path)]) == 2
    return capsys.readouterr().err


def test_nothing_to_merge(changed, refused):
    says(refused(changed(student_init="merge_sum")), "student_init", "no teacher is a LoRA")


def test_teacher_called_student(changed, refused):
    says(refused(changed({"student": {}})), "[danceopd.teachers.student]", "choose")


@pytest.mark.parametrize(
    ("teacher", "expected"),
    [
        ({"lora": "a", "checkpoint": "b"}, "either lora or checkpoint"),
        ({"extract_rank": 4}, "extract_rank works only for"),
        ({"lora": ["a", "b"], "strength": [1.0]}, "2 LoRAs, but 1 strengths"),
        ({"lora": "a", "strenght": 1.0}, 'Did you mean "strength"?'),
        ({"guidance_scale": "3"}, "without quotes"),
    ],
)
def test_wrong_teacher(changed, refused, teacher, expected):
    says(refused(changed({"style": teacher})), "[danceopd.teachers.style]", expected)


# --- previews


def test_missing_preview_prompts(changed, refused):
    says(refused(changed(sample_prompts="no.txt", sample_every_n_steps=1)), "no.txt", "sample_prompts")


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("a cat --w 17 --h 16", ["17x16", "multiples of 4", "--w"]),
        ("a cat --w 1024", ["1024x16", "up to 64"]),
        ("a cat --w wide", ["--w", "whole number", "wide"]),
        ("a cat --w 16 --h 16 --s 0", ["--s"]),
        ("a cat --w 16 --h 16 --l 0", ["--l 0", "1 means no guidance"]),
    ],
)
def test_wrong_preview_prompt(changed, refused, tmp_path, line, parts):
    (tmp_path / "samples.txt").write_text(f"# pictures\n{line}\n", encoding="utf-8")
    message = refused(changed(sample_prompts=str(tmp_path / "samples.txt"), sample_every_n_steps=1))
    says(message, "samples.txt, line 2", *parts)

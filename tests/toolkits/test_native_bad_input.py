"""What is wrong with the input is said in one sentence with its remedy, and nothing is written."""

from __future__ import annotations

import json
import os
import pickle
import shutil

import pytest
from safetensors.torch import load_file, save_file

from danceopd_ext.cli import run
from danceopd_ext.errors import UserError
from danceopd_ext.toolkits.native import train as train_module
from danceopd_ext.toolkits.run import main
from tests.tiny.pipelines import sd3_pipeline
from tests.tiny.presets import SMALL, write_preset
from tests.toolkits.conftest import log_of

BASE = {"base": {}}


@pytest.fixture
def preset(pipelines, tmp_path):
    """Write a preset for the tiny SD3 with one keyword changed."""

    def preset(teachers=BASE, family="sd3", **keys):
        return write_preset(tmp_path / "run", keys.pop("model", pipelines[family]), teachers, **keys)

    return preset


def says(message: str, *parts: object) -> None:
    for part in parts:
        assert str(part) in message


# --- the preset itself


def edited(path, old, new):
    path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    return path


def test_unknown_key(preset, refused):
    path = edited(preset(), "network_dim", "network_rank")
    says(refused(path), path, "network_rank", 'Did you mean "network_')


def test_unknown_section(preset, refused):
    path = edited(preset(), "[training]", "[trainer]")
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
        ("learning_rate", "nan", "more than 0"),
        ("max_train_steps", "0", "1 or more"),
        ("network_dropout", "1.0", "below 1"),
        ("output_name", '"a/b"', "no folders"),
        ("output_name", '""', "file name"),
    ],
)
def test_wrong_value(preset, refused, key, value, expected):
    path = preset(**{key: None} if key in SMALL else {})
    edited(path, "[training]", f"[training]\n{key} = {value}")
    says(refused(path), key, expected)


def test_num_queries_above_rollout_steps(preset, refused):
    says(refused(preset(num_queries=5, rollout_steps=4)), "num_queries = 5", "rollout_steps = 4", "4 or less")


def test_toml_syntax_error(preset, refused):
    path = edited(preset(), "[training]", "[training\n")
    says(refused(path), path, "line")


def test_windows_path_in_double_quotes(preset, refused):
    path = edited(preset(), "[saving]", '[saving]\ntraining_comment = "C:\\users\\me"')
    says(refused(path), path, "single quotes")


def test_missing_preset(tmp_path, refused):
    says(refused(tmp_path / "nothing.toml"), "nothing.toml", "does not exist")


def test_no_preset(capsys):
    assert run(main, ["--seed", "3"]) == 2
    says(capsys.readouterr().err, "--config preset.toml")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--network_dims", "4"], 'Did you mean "network_dim"?'),
        (["--network_dim", "four"], "takes integer"),
        (["--output_name"], "--output_name needs a value"),
    ],
)
def test_wrong_argument(preset, refused, arguments, expected):
    says(refused(preset(), *arguments), arguments[0].split()[0], expected)


# --- routes and data


def test_no_teacher(preset, refused):
    says(refused(preset({})), "[danceopd.teachers.NAME]")


def test_route_without_data(preset, refused):
    says(refused(preset({"base": {}, "style": {}}, prompts={})), '"base" has no data', 'base = "prompts.txt"')


def test_empty_prompt_file(preset, refused, tmp_path):
    (tmp_path / "empty.txt").write_text("\n# only a comment\n", encoding="utf-8")
    says(refused(preset(prompts={"base": str(tmp_path / "empty.txt")})), "empty.txt", "one prompt a line")


def test_missing_prompt_file(preset, refused):
    says(refused(preset(prompts={"base": "nowhere.txt"})), "nowhere.txt", "not found")


def test_prompts_of_an_undefined_teacher(preset, refused):
    says(refused(preset({"style": {}}, prompts={"stile": "a.txt"})), "stile", 'Did you mean "style"?')


def test_dataset_of_an_undefined_teacher(preset, refused, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "a.txt").write_text("a cat", encoding="utf-8")
    config = dataset(tmp_path, folder, "stile")
    says(refused(preset({"style": {}}, prompts={}, dataset_config=config)), "dataset.toml", 'Did you mean "style"?')


def test_dataset_without_captions(preset, refused, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    config = dataset(tmp_path, folder, "base")
    says(refused(preset(prompts={}, dataset_config=config)), folder, ".txt")


def dataset(folder, images, teacher):
    path = folder / "dataset.toml"
    path.write_text(
        f"[[datasets]]\nresolution = 16\ncaption_extension = '.txt'\n[[datasets.subsets]]\nimage_dir = '{images}'\n"
        f"custom_attributes = {{ teacher = '{teacher}' }}\n",
        encoding="utf-8",
    )
    return str(path)


def test_resolution_that_the_model_cannot_take(preset, refused):
    says(refused(preset(resolution=18)), "18x18", "multiples of 4", "nearest is 20x20")


# --- LoRA files


def test_missing_lora(preset, refused, loras):
    missing = loras["sd3", 0].with_name("sd3_9.safetensors")
    says(refused(preset({"style": {"lora": str(missing)}})), "[danceopd.teachers.style]", missing, "sd3_")


def test_truncated_lora(preset, refused, loras, tmp_path):
    path = tmp_path / "short.safetensors"
    path.write_bytes(loras["sd3", 0].read_bytes()[:-100])
    says(refused(preset({"style": {"lora": str(path)}})), path, "truncated", "download")


@pytest.mark.parametrize(("family", "other", "name"), [("z_image", "sd3", "SD3"), ("sd3", "z_image", "Z-Image")])
@pytest.mark.parametrize("place", [0, 1])
def test_lora_of_another_family(preset, refused, loras, family, other, name, place):
    file = loras[other, place]
    message = refused(preset({"style": {"lora": str(file)}}, family=family))
    says(message, file, "Use a LoRA made for")
    assert place or name in message or "no key fits" in message


def test_lora_that_half_fits(preset, refused, loras, tmp_path):
    tensors = load_file(loras["sd3", 1])
    moved = {key.replace("transformer_blocks.1", "transformer_blocks.7"): value for key, value in tensors.items()}
    save_file(moved, tmp_path / "half.safetensors")
    message = refused(preset({"style": {"lora": str(tmp_path / "half.safetensors")}}))
    says(message, "half.safetensors", "do not fit", "transformer_blocks.7", "exactly the base model")


def test_lora_with_nan(preset, refused, loras, tmp_path):
    tensors = load_file(loras["sd3", 1])
    key = next(iter(tensors))
    tensors[key][0, 0] = float("nan")
    save_file(tensors, tmp_path / "nan.safetensors")
    says(refused(preset({"style": {"lora": str(tmp_path / "nan.safetensors")}})), "nan.safetensors", "NaN")


class Bomb:
    """A pickle that makes a file when it is opened without care."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("where", ["lora", "checkpoint", "model", "network_weights"])
@pytest.mark.parametrize("ending", [".ckpt", ".safetensors"])
def test_pickle_that_runs_code(preset, refused, tmp_path, where, ending):
    mark, path = tmp_path / "mark", tmp_path / f"bomb{ending}"
    with open(path, "wb") as file:
        pickle.dump({"state_dict": Bomb(mark)}, file)
    if where in ("lora", "checkpoint"):
        made = preset({"style": {where: str(path)}})
    else:
        made = preset(**{"model": path} if where == "model" else {where: str(path)})
    says(refused(made), path.name, "safetensors")
    assert not mark.exists()
    # the bomb is live: opening it without care does run it
    with open(path, "rb") as file:
        pickle.load(file)
    assert mark.is_dir()


# --- the model


def test_missing_model(preset, refused, tmp_path):
    says(refused(preset(model=tmp_path / "no_model")), "no_model", "pretrained_model_name_or_path")


def test_folder_without_a_pipeline(preset, refused, tmp_path):
    (tmp_path / "folder").mkdir()
    says(refused(preset(model=tmp_path / "folder")), tmp_path / "folder", "not a diffusers pipeline")


def test_wrong_model_type(preset, refused):
    says(refused(preset(model_type="z_image")), 'model_type = "z_image"', 'model_type = "sd3"')


def test_half_downloaded_model(preset, refused, pipelines, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(pipelines["sd3"], model)
    weights = model / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    says(refused(preset(model=model)), weights, "download it again")
    weights.unlink()
    says(refused(preset(model=model)), weights.parent, "download the model again")


def test_model_without_a_text_encoder(preset, refused, pipelines, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(pipelines["sd3"], model, ignore=shutil.ignore_patterns("text_encoder_2"))
    says(refused(preset(model=model)), model, "a part of the model does not load")


def test_checkpoint_teacher_of_another_family(preset, refused, pipelines):
    message = refused(preset({"real": {"checkpoint": str(pipelines["z_image"])}}))
    says(message, "[danceopd.teachers.real]", pipelines["z_image"], "Z-Image")


def test_checkpoint_teacher_of_another_size(preset, refused, tmp_path):
    pipeline = sd3_pipeline()
    pipeline.transformer = type(pipeline.transformer).from_config({**pipeline.transformer.config, "num_layers": 2})
    pipeline.save_pretrained(tmp_path / "small")
    says(refused(preset({"real": {"checkpoint": str(tmp_path / "small")}})), "teachers.real", "another size")


# --- the machine


@pytest.mark.parametrize(
    ("keys", "parts"),
    [
        ({"optimizer_type": "AdamV"}, ['"AdamV"', 'Did you mean "AdamW"?']),
        ({"optimizer_type": "no_such_package.Adam"}, ["no_such_package", "pip install"]),
        ({"optimizer_type": "torch.optim.NoSuch"}, ["NoSuch"]),
        ({"optimizer_args": ["beta=0.9"]}, ["optimizer_args", "beta"]),
        ({"optimizer_args": ["betas=0.9"]}, ["optimizer_args", "betas"]),
        ({"optimizer_args": ["betas"]}, ["optimizer_args", "name=value"]),
        ({"optimizer_type": "AdamW8bit"}, ["AdamW8bit", "needs a GPU", '"AdamW"']),
        ({"lr_scheduler": "cosinus"}, ["lr_scheduler", "cosinus", "cosine"]),
        ({"lr_scheduler": "cosine_with_min_lr"}, ["lr_scheduler", "min_lr"]),
        ({"lr_scheduler": "cosine", "lr_scheduler_args": ["speed=2"]}, ["lr_scheduler", "speed"]),
        ({"lr_scheduler": "reduce_lr_on_plateau"}, ["lr_scheduler", "reduce_lr_on_plateau"]),
        ({"attn_mode": "quick"}, ['attn_mode = "quick"', '"sdpa"']),
        ({"xformers": True}, ["xformers", '"sdpa"']),
        ({"mixed_precision": "fp16"}, ["fp16", "GPU", '"bf16"']),
        ({"log_with": "wandb"}, ["wandb", "pip install wandb"]),
    ],
)
@pytest.mark.parametrize("family", ["sd3", "z_image"])
def test_what_does_not_work_here(preset, refused, family, keys, parts):
    if family == "z_image" and not {"attn_mode", "xformers"} & keys.keys():
        keys = {**keys, "resolution": 32}
    says(refused(preset(family=family, **keys)), *parts)


def test_output_below_a_file(preset, refused, tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    says(refused(preset(output_dir=str(tmp_path / "file" / "output"))), "output_dir", "choose another folder")


def test_unknown_lora_targets(preset, refused):
    says(refused(preset(lora_targets=["to_x"])), "lora_targets", "to_x", "attn.to_q")


def test_only_the_first_process_tells(preset, monkeypatch, capsys):
    def wrong(_):
        raise UserError("something is wrong")

    monkeypatch.setattr(train_module, "train", wrong)
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(SystemExit) as stopped:
        run(main, ["--config", str(preset())])
    assert stopped.value.code == 2
    assert "something is wrong" not in capsys.readouterr().err
    monkeypatch.setenv("LOCAL_RANK", "0")
    says(refused_once(preset(), capsys), "something is wrong")


def refused_once(path, capsys):
    assert run(main, ["--config", str(path)]) == 2
    return capsys.readouterr().err


def test_nothing_to_merge(preset, refused):
    says(refused(preset(student_init="merge_sum")), "student_init", "no teacher is a LoRA")


def test_teacher_called_student(preset, refused):
    says(refused(preset({"student": {}})), "[danceopd.teachers.student]", "choose")


@pytest.mark.parametrize(
    ("teacher", "expected"),
    [
        ({"lora": "a", "checkpoint": "b"}, "either lora or checkpoint"),
        ({"extract_rank": 4}, "extract_rank belongs to"),
        ({"lora": ["a", "b"], "strength": [1.0]}, "2 LoRAs, but 1 strengths"),
        ({"lora": "a", "strenght": 1.0}, 'Did you mean "strength"?'),
        ({"guidance_scale": "3"}, "without quotes"),
    ],
)
def test_wrong_teacher(preset, refused, teacher, expected):
    says(refused(preset({"style": teacher})), "[danceopd.teachers.style]", expected)


# --- previews


def test_missing_preview_prompts(preset, refused):
    says(refused(preset(sample_prompts="no.txt", sample_every_n_steps=1)), "no.txt", "sample_prompts")


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("a cat --w 17 --h 16", ["17x16", "multiples of 4", "--w"]),
        ("a cat", ["1024x1024", "up to 64"]),
        ("a cat --w wide", ["--w", "whole number", "wide"]),
        ("a cat --w 16 --h 16 --s 0", ["--s"]),
    ],
)
def test_wrong_preview_prompt(preset, refused, tmp_path, line, parts):
    (tmp_path / "samples.txt").write_text(f"# pictures\n{line}\n", encoding="utf-8")
    message = refused(preset(sample_prompts=str(tmp_path / "samples.txt"), sample_every_n_steps=1))
    says(message, "samples.txt, line 2", *parts)


# --- resume


@pytest.fixture(scope="module")
def state(pipelines, tmp_path_factory):
    """A state folder after one of three steps."""
    folder = tmp_path_factory.mktemp("state")
    path = write_preset(folder, pipelines["sd3"], BASE, max_train_steps=1, save_state=True)
    main(["--config", str(path)])
    return folder / "output" / "fused-state"


@pytest.fixture
def resumed(preset, state, refused, tmp_path):
    """Resume a copy of the state after `change(copy)`; return the message."""

    def resumed(change=None, teachers=BASE, **keys):
        copy = tmp_path / "old-state"
        shutil.copytree(state, copy)
        if change:
            change(copy)
        prompts = {"base": str(state.parent.parent / "base.txt")}
        keys = {"prompts": prompts, "max_train_steps": 3, **keys}
        return refused(preset(teachers, resume=str(copy), **keys))

    return resumed


def test_resume_another_run(resumed):
    says(resumed(network_dim=8), "old-state (resume)", "network_dim was 4 and is 8", "network_weights")


def test_resume_with_another_teacher(resumed):
    says(resumed(teachers={"base": {"guidance_scale": 2.0}}), "teachers.base", "guidance 1", "guidance 2")


def test_resume_with_other_data(resumed, tmp_path):
    (tmp_path / "other.txt").write_text("a dog\n", encoding="utf-8")
    says(resumed(prompts={"base": str(tmp_path / "other.txt")}), "old-state (resume)", "prompts")


def test_resume_what_is_done(resumed):
    says(resumed(max_train_steps=1), "has done 1 steps", "raise max_train_steps")


@pytest.mark.parametrize("name", ["optimizer.pt", "student.safetensors"])
def test_resume_damaged(resumed, name):
    def damage(folder):
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(content)

    says(resumed(damage), name, "damaged", "earlier state")


def test_resume_what_is_not_a_state(resumed):
    says(resumed(lambda folder: (folder / "state.json").unlink()), "not a state folder")


def test_resume_without_a_folder(preset, refused):
    says(refused(preset(resume="nowhere")), "nowhere (resume)", "not a state folder")


def test_resume_a_broken_description(resumed):
    says(resumed(lambda folder: (folder / "state.json").write_text("{")), "state.json", "damaged")


def test_resume_a_pickle_that_runs_code(resumed, tmp_path):
    """Even with fitting digests: a state can come from somebody else."""
    mark = tmp_path / "mark"

    def bomb(folder):
        from danceopd_ext.toolkits.native.state import _digest

        with open(folder / "optimizer.pt", "wb") as file:
            pickle.dump({"optimizer": Bomb(mark)}, file)
        facts = json.loads((folder / "state.json").read_text())
        facts["sha256"]["optimizer.pt"] = _digest(folder / "optimizer.pt")
        (folder / "state.json").write_text(json.dumps(facts))

    says(resumed(bomb), "optimizer.pt", "cannot be read", "earlier state")
    assert not mark.exists()


def test_network_weights_of_another_family(preset, refused, loras):
    message = refused(preset(network_weights=str(loras["z_image", 1])))
    says(message, "network_weights", loras["z_image", 1])


def test_the_same_run_is_not_refused(preset, state, launch):
    """So the refusals above are for their own reasons."""
    prompts = {"base": str(state.parent.parent / "base.txt")}
    output = launch(preset(resume=str(state), prompts=prompts, max_train_steps=2))
    assert [entry["step"] for entry in log_of(output)] == [2]
